package openai

import (
	"bytes"
	"encoding/json"
	"slices"
)

// fit is how well structured output can express a schema.
type fit int

const (
	fitNone   fit = iota // only words can
	fitLoose             // the server may hold to it: sent with strict false, and in words
	fitStrict            // the server guarantees it: every property required, nothing beside them
)

const schemaDepth = 10 // levels that structured output takes

// allowedKeywords are those of OpenAI's structured output, which the grammars of compatible servers know as well.
var allowedKeywords = []string{
	"$defs", "$ref", "$schema", "additionalProperties", "anyOf", "const", "definitions", "description", "enum",
	"exclusiveMaximum", "exclusiveMinimum", "format", "items", "maxItems", "maximum", "minItems", "minimum", "multipleOf",
	"pattern", "properties", "required", "title", "type",
}

// member is one entry of an object in its own place: models fill properties in the order that a schema names them.
type member struct {
	key string
	raw json.RawMessage
}

// expressible says how well a schema fits, and gives it in the form to send: the same, but for objects that require
// all of their properties and say nothing of others, which are closed. What fits the closed one fits the original.
func expressible(schema json.RawMessage) (json.RawMessage, fit) {
	out, f := closed(schema, 0)
	var root struct {
		Type  any             `json:"type"`
		AnyOf json.RawMessage `json:"anyOf"`
	}
	if f == fitNone || json.Unmarshal(schema, &root) != nil || root.Type != "object" || root.AnyOf != nil {
		return nil, fitNone
	}
	if f == fitLoose {
		return schema, fitLoose
	}
	return out, fitStrict
}

// closed rewrites one schema and all below it.
func closed(schema json.RawMessage, depth int) (json.RawMessage, fit) {
	members, err := object(schema)
	if err != nil || depth > schemaDepth {
		return nil, fitNone
	}
	f := fitStrict
	for i, m := range members {
		if !slices.Contains(allowedKeywords, m.key) {
			return nil, fitNone
		}
		sub, subFit := m.raw, fitStrict
		switch m.key {
		case "properties", "$defs", "definitions":
			sub, subFit = closedObject(m.raw, depth+1)
		case "items":
			sub, subFit = closed(m.raw, depth+1)
		case "anyOf":
			sub, subFit = closedList(m.raw, depth+1)
		}
		if subFit == fitNone {
			return nil, fitNone
		}
		members[i].raw, f = sub, min(f, subFit)
	}
	members, ok := closeMembers(members)
	if !ok {
		f = fitLoose
	}
	return encode(members), f
}

// closeMembers adds additionalProperties: false to an object schema that requires all it names. ok is false for an
// object that cannot be closed without changing what it means.
func closeMembers(members []member) (_ []member, ok bool) {
	get := func(key string) json.RawMessage {
		if i := slices.IndexFunc(members, func(m member) bool { return m.key == key }); i >= 0 {
			return members[i].raw
		}
		return nil
	}
	properties := get("properties")
	if properties == nil {
		return members, !bytes.Contains(get("type"), []byte(`"object"`))
	}
	named, err := object(properties)
	var required []string
	if err != nil || json.Unmarshal(orEmpty(get("required")), &required) != nil {
		return members, false
	}
	for _, n := range named {
		if !slices.Contains(required, n.key) {
			return members, false
		}
	}
	switch string(bytes.TrimSpace(get("additionalProperties"))) {
	case "":
		return append(members, member{"additionalProperties", json.RawMessage("false")}), true
	case "false":
		return members, true
	default:
		return members, false
	}
}

func orEmpty(list json.RawMessage) json.RawMessage {
	if list == nil {
		return json.RawMessage("[]")
	}
	return list
}

func closedObject(raw json.RawMessage, depth int) (json.RawMessage, fit) {
	members, err := object(raw)
	if err != nil {
		return nil, fitNone
	}
	f := fitStrict
	for i, m := range members {
		sub, subFit := closed(m.raw, depth)
		if subFit == fitNone {
			return nil, fitNone
		}
		members[i].raw, f = sub, min(f, subFit)
	}
	return encode(members), f
}

func closedList(raw json.RawMessage, depth int) (json.RawMessage, fit) {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		return nil, fitNone
	}
	f := fitStrict
	for i, s := range list {
		sub, subFit := closed(s, depth)
		if subFit == fitNone {
			return nil, fitNone
		}
		list[i], f = sub, min(f, subFit)
	}
	b, err := json.Marshal(list)
	if err != nil {
		return nil, fitNone
	}
	return b, f
}

// object reads the members of a JSON object in their order.
func object(raw json.RawMessage) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	if t != json.Delim('{') {
		return nil, &json.UnmarshalTypeError{Value: "value", Offset: dec.InputOffset()}
	}
	var out []member
	for dec.More() {
		k, err := dec.Token()
		if err != nil {
			return nil, err
		}
		key, _ := k.(string)
		m := member{key: key}
		if err := dec.Decode(&m.raw); err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

func encode(members []member) json.RawMessage {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range members {
		if i > 0 {
			b.WriteByte(',')
		}
		key, _ := json.Marshal(m.key) // a string always marshals
		b.Write(key)
		b.WriteByte(':')
		b.Write(m.raw)
	}
	b.WriteByte('}')
	return b.Bytes()
}
