package schema_test

import (
	"fmt"
	"strings"
	"testing"

	"arkonis.dev/ark/pkg/schema"
)

// The largest schema that is accepted, and an ordinary one.
func BenchmarkCompile(b *testing.B) {
	var large strings.Builder
	large.WriteString(`{"type":"object","properties":{`)
	for i := range schema.MaxSchemaNodes - 3 {
		fmt.Fprintf(&large, `"p%d":{"type":"string","minLength":1},`, i)
	}
	large.WriteString(`"z":{}}}`)
	for name, text := range map[string]string{
		"large": large.String(),
		"small": `{"type":"object","required":["a"],"properties":{"a":{"type":"string"},"b":{"type":"array","items":{"type":"integer"}}}}`,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := schema.Compile([]byte(text)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkValidate(b *testing.B) {
	s := compile(b, `{"type":"array","items":{"type":"object","required":["a"],"properties":{"a":{"type":"string"}}}}`)
	doc := []byte("[" + strings.Repeat(`{"a":"x"},`, 999) + `{"a":"x"}]`)
	b.ReportAllocs()
	for b.Loop() {
		if _, vs, err := s.ValidateJSON(doc); err != nil || len(vs) > 0 {
			b.Fatal(err, vs)
		}
	}
}
