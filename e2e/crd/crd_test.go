package crd

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
)

var update = flag.Bool("update", false, "write the files of expected results anew")

// golden compares with a file of expected results.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// The validation that a real API server does when a CRD is created: structural schema, defaults that fit the schema,
// CEL rules that compile and whose estimated cost is within the limits.
func TestAPIServerAcceptsCRDs(t *testing.T) {
	t.Parallel()
	for name, k := range newServer(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			crd := internal(t, k.crd)
			crd.Status.StoredVersions = []string{"v1alpha1"}
			require.Empty(t, validation.ValidateCustomResourceDefinition(t.Context(), crd))
		})
	}
}

// What kubectl shows of a kind: names, columns, subresources.
func TestFace(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s)) {
		spec := s[name].crd.Spec
		version := spec.Versions[0]
		fmt.Fprintf(&out, "%s %s.%s %s short=%v categories=%v\n", name, spec.Names.Plural, spec.Group, spec.Scope, spec.Names.ShortNames, spec.Names.Categories)
		for _, c := range version.AdditionalPrinterColumns {
			wide := ""
			if c.Priority > 0 {
				wide = " (wide)"
			}
			fmt.Fprintf(&out, "  %s: %s %s%s\n", c.Name, c.Type, c.JSONPath, wide)
		}
		fmt.Fprintf(&out, "  status=%t", version.Subresources.Status != nil)
		if scale := version.Subresources.Scale; scale != nil {
			fmt.Fprintf(&out, " scale=%s %s %s", scale.SpecReplicasPath, scale.StatusReplicasPath, *scale.LabelSelectorPath)
		}
		out.WriteString("\n")
	}
	golden(t, "testdata/face.golden", out.String())
}

// Every string, list and map has a bound, and every field a description.
func TestEverythingIsBoundedAndDescribed(t *testing.T) {
	t.Parallel()
	for name, k := range newServer(t) {
		root := k.crd.Spec.Versions[0].Schema.OpenAPIV3Schema
		require.NotEmpty(t, root.Description, name)
		for _, part := range []string{"spec", "status"} {
			schema := root.Properties[part]
			eachSchema(name+"."+part, &schema, func(path string, s *apiextensionsv1.JSONSchemaProps) {
				if !strings.HasSuffix(path, "[]") && !strings.HasSuffix(path, "{}") {
					require.NotEmpty(t, s.Description, "%s has no description", path)
				}
				switch {
				case s.Type == "string" && len(s.Enum) == 0 && s.Format == "":
					require.NotNil(t, s.MaxLength, "%s has no maxLength", path)
				case s.Type == "array":
					require.NotNil(t, s.MaxItems, "%s has no maxItems", path)
				case s.Type == "object" && s.AdditionalProperties != nil:
					require.NotNil(t, s.MaxProperties, "%s has no maxProperties", path)
				}
			})
		}
	}
}

// A role that says nothing must stay distinguishable from one that says the default.
func TestRolesHaveNoDefaults(t *testing.T) {
	t.Parallel()
	spec := newServer(t)["ArkTeam"].crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	roles := spec.Properties["roles"]
	eachSchema("roles", &roles, func(path string, s *apiextensionsv1.JSONSchemaProps) {
		require.Nil(t, s.Default, "%s has a default", path)
	})
}

// kubectl apply without --server-side keeps a copy of the object in an annotation, which cannot be larger.
func TestCRDsFitAnAnnotation(t *testing.T) {
	t.Parallel()
	const limit = 256 << 10
	for name, k := range newServer(t) {
		text, err := k.crd.Marshal()
		require.NoError(t, err)
		require.Less(t, len(text), limit*9/10, name)
	}
}

// eachSchema visits a schema and every schema below it.
func eachSchema(path string, s *apiextensionsv1.JSONSchemaProps, visit func(string, *apiextensionsv1.JSONSchemaProps)) {
	visit(path, s)
	for name, child := range s.Properties {
		eachSchema(path+"."+name, &child, visit)
	}
	if s.Items != nil {
		eachSchema(path+"[]", s.Items.Schema, visit)
	}
	if s.AdditionalProperties != nil {
		eachSchema(path+"{}", s.AdditionalProperties.Schema, visit)
	}
}
