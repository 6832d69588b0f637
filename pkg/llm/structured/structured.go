// Package structured says how well the structured output of a model server can express a JSON Schema, and puts the
// schema into the form that the server takes. It is pure.
package structured

import (
	"bytes"
	"encoding/json"
	"slices"
)

// Fit is how well structured output can express a schema.
type Fit int

const (
	None   Fit = iota // only words can
	Loose             // the server holds to a part of it, if at all: ask in words as well
	Strict            // the server guarantees it
)

// Dialect is the part of JSON Schema that a kind of server takes.
type Dialect struct {
	// Keywords are those that are sent. A schema with another one, beside those of Dropped, is not expressible.
	Keywords []string
	// Dropped are the constraints that are left out: what is sent allows more, and the fit is Loose.
	Dropped []string
	// Silent are the keywords that are left out and say nothing of what is valid.
	Silent []string
	// Optional says that an object may leave out properties that it does not require.
	Optional bool
	// Open says that a server takes objects that are not closed, though it then guarantees nothing: the schema is sent
	// as it is, and the fit is Loose. Without it such a schema is not expressible.
	Open bool
	// Depth is how many levels a schema may have.
	Depth int
}

// member is one entry of an object in its own place: models fill properties in the order that a schema names them.
type member struct {
	key string
	raw json.RawMessage
}

// Express says how well a schema fits, and gives it in the form to send: the same, but for objects that say nothing of
// other properties, which are closed, and for what is Dropped. What fits the closed schema fits the original, as far as
// nothing is dropped. The root must be an object.
func (d Dialect) Express(schema json.RawMessage) (json.RawMessage, Fit) {
	var root struct {
		Type  any             `json:"type"`
		AnyOf json.RawMessage `json:"anyOf"`
	}
	out, f := d.closed(schema, 0)
	if f == None || json.Unmarshal(schema, &root) != nil || root.Type != "object" || root.AnyOf != nil {
		return nil, None
	}
	if f == Loose && d.Open {
		return schema, Loose
	}
	return out, f
}

// closed rewrites one schema and all below it.
func (d Dialect) closed(schema json.RawMessage, depth int) (json.RawMessage, Fit) {
	members, err := object(schema)
	if err != nil || depth > d.Depth {
		return nil, None
	}
	f := Strict
	kept := make([]member, 0, len(members)+1)
	for _, m := range members {
		switch {
		case slices.Contains(d.Silent, m.key):
			continue
		case slices.Contains(d.Dropped, m.key):
			f = Loose
			continue
		case !slices.Contains(d.Keywords, m.key):
			return nil, None
		}
		sub, fit := d.below(m, depth+1)
		if fit == None {
			return nil, None
		}
		kept, f = append(kept, member{m.key, sub}), min(f, fit)
	}
	kept, ok := d.closeMembers(kept)
	switch {
	case !ok && !d.Open:
		return nil, None
	case !ok:
		f = Loose
	}
	return encode(kept), f
}

// below rewrites what stands under a keyword.
func (d Dialect) below(m member, depth int) (json.RawMessage, Fit) {
	switch m.key {
	case "properties", "$defs", "definitions":
		return d.closedObject(m.raw, depth)
	case "items":
		return d.closed(m.raw, depth)
	case "anyOf":
		return d.closedList(m.raw, depth)
	default:
		return m.raw, Strict
	}
}

// closeMembers adds additionalProperties: false to an object schema. ok is false for an object that cannot be closed
// without changing what it means, and for one that leaves open what the dialect wants required.
func (d Dialect) closeMembers(members []member) (_ []member, ok bool) {
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
		if !d.Optional && !slices.Contains(required, n.key) {
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

func (d Dialect) closedObject(raw json.RawMessage, depth int) (json.RawMessage, Fit) {
	members, err := object(raw)
	if err != nil {
		return nil, None
	}
	f := Strict
	for i, m := range members {
		sub, fit := d.closed(m.raw, depth)
		if fit == None {
			return nil, None
		}
		members[i].raw, f = sub, min(f, fit)
	}
	return encode(members), f
}

func (d Dialect) closedList(raw json.RawMessage, depth int) (json.RawMessage, Fit) {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		return nil, None
	}
	f := Strict
	for i, s := range list {
		sub, fit := d.closed(s, depth)
		if fit == None {
			return nil, None
		}
		list[i], f = sub, min(f, fit)
	}
	b, err := json.Marshal(list)
	if err != nil {
		return nil, None
	}
	return b, f
}

// ObjectSchema is the schema of a tool's arguments for a server that wants to see type object at the root: the same
// schema, in its order, without the keywords to drop at the root. The error is of one that is no JSON object.
func ObjectSchema(schema json.RawMessage, drop ...string) (json.RawMessage, error) {
	var check map[string]json.RawMessage
	if err := json.Unmarshal(schema, &check); err != nil {
		return nil, err
	}
	members, err := object(schema)
	if err != nil {
		return nil, err
	}
	members = slices.DeleteFunc(members, func(m member) bool { return m.key == "type" || slices.Contains(drop, m.key) })
	return encode(slices.Insert(members, 0, member{"type", json.RawMessage(`"object"`)})), nil
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
