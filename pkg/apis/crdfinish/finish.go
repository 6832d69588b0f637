package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/format"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"sigs.k8s.io/yaml"
)

// Bounds of what foreign types leave unbounded.
const (
	maxLength     = 65536
	maxItems      = 256
	maxProperties = 256
)

// run finishes every CRD in a folder and writes the schemas of all of them to a Go file.
func run(dir, goFile string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return fmt.Errorf("list CRDs: %w", err)
	}
	if len(files) == 0 {
		return fmt.Errorf("no CRDs in %s", dir)
	}
	schemas := map[string]any{}
	for _, file := range files {
		kind, schema, err := finishFile(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		spec, err := at(schema, "properties", "spec")
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		schemas[kind] = distil(map[string]any{
			"type": "object", "required": schema["required"], "properties": map[string]any{"spec": spec},
		})
	}
	return writeSchemas(goFile, schemas)
}

// finishFile finishes one CRD in place and returns its kind and its schema.
func finishFile(file string) (kind string, schema map[string]any, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", nil, fmt.Errorf("read CRD: %w", err)
	}
	var crd map[string]any
	if err := yaml.Unmarshal(text, &crd); err != nil {
		return "", nil, fmt.Errorf("decode CRD: %w", err)
	}
	kind, schema, err = schemaOf(crd)
	if err != nil {
		return "", nil, err
	}
	bound(schema)
	walk(schema, func(node map[string]any) {
		if node["x-kubernetes-preserve-unknown-fields"] == true {
			node["nullable"] = true
		}
	})
	if kind == "ArkTeam" {
		roles, err := at(schema, "properties", "spec", "properties", "roles")
		if err != nil {
			return "", nil, err
		}
		walk(roles, func(node map[string]any) { delete(node, "default") })
	}
	text, err = yaml.Marshal(crd)
	if err != nil {
		return "", nil, fmt.Errorf("encode CRD: %w", err)
	}
	text = append([]byte("---\n"), text...)
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return "", nil, fmt.Errorf("write CRD: %w", err)
	}
	return kind, schema, nil
}

// schemaOf returns the kind and the schema of a CRD with one version.
func schemaOf(crd map[string]any) (string, map[string]any, error) {
	names, err := at(crd, "spec", "names")
	if err != nil {
		return "", nil, err
	}
	kind, _ := names["kind"].(string)
	spec, err := at(crd, "spec")
	if err != nil {
		return "", nil, err
	}
	versions, _ := spec["versions"].([]any)
	if len(versions) != 1 || kind == "" {
		return "", nil, fmt.Errorf("want one kind with one version, got %q with %d", kind, len(versions))
	}
	version, _ := versions[0].(map[string]any)
	schema, err := at(version, "schema", "openAPIV3Schema")
	return kind, schema, err
}

// at descends into nested objects.
func at(node map[string]any, path ...string) (map[string]any, error) {
	for _, key := range path {
		next, ok := node[key].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("no %s in the CRD", key)
		}
		node = next
	}
	return node, nil
}

// walk visits a schema and every schema below it.
func walk(node map[string]any, visit func(map[string]any)) {
	visit(node)
	if properties, ok := node["properties"].(map[string]any); ok {
		for _, child := range properties {
			if child, ok := child.(map[string]any); ok {
				walk(child, visit)
			}
		}
	}
	for _, key := range []string{"items", "additionalProperties"} {
		if child, ok := node[key].(map[string]any); ok {
			walk(child, visit)
		}
	}
}

// bound gives every string, list and map of a schema a bound, but for metadata, which has its own.
func bound(schema map[string]any) {
	walk(schema, func(node map[string]any) {
		switch node["type"] {
		case "string":
			if node["enum"] == nil && node["format"] == nil {
				setDefault(node, "maxLength", maxLength)
			}
		case "array":
			setDefault(node, "maxItems", maxItems)
		case "object":
			if node["additionalProperties"] != nil {
				setDefault(node, "maxProperties", maxProperties)
			}
		}
	})
	for _, key := range []string{"apiVersion", "kind"} {
		if node, err := at(schema, "properties", key); err == nil {
			delete(node, "maxLength")
		}
	}
}

func setDefault(node map[string]any, key string, value int) {
	if node[key] == nil {
		node[key] = value
	}
}

// distil keeps the part of a schema that says what is allowed, without descriptions, defaults and CEL rules.
func distil(node map[string]any) map[string]any {
	out := map[string]any{}
	for _, key := range []string{
		"type", "required", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern", "minItems", "maxItems",
		"minProperties", "maxProperties", "format", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string",
		"x-kubernetes-list-type", "x-kubernetes-list-map-keys",
	} {
		if value := node[key]; value != nil {
			out[key] = value
		}
	}
	if properties, ok := node["properties"].(map[string]any); ok {
		kept := map[string]any{}
		for name, child := range properties {
			kept[name] = distil(child.(map[string]any))
		}
		out["properties"] = kept
	}
	for _, key := range []string{"items", "additionalProperties"} {
		if child, ok := node[key].(map[string]any); ok {
			out[key] = distil(child)
		}
	}
	return out
}

// writeSchemas writes a Go file with one constant for each kind and the function that finds it.
func writeSchemas(file string, schemas map[string]any) error {
	var out bytes.Buffer
	out.WriteString("// Code generated by crdfinish. DO NOT EDIT.\n\npackage v1alpha1\n\n")
	out.WriteString("// schemaText returns the JSON text of the schema of a kind without metadata, status and descriptions; \"\" for other kinds.\n")
	out.WriteString("func schemaText(kind string) string {\n\tswitch kind {\n")
	for _, kind := range slices.Sorted(maps.Keys(schemas)) {
		text, err := json.Marshal(schemas[kind])
		if err != nil {
			return fmt.Errorf("encode schema of %s: %w", kind, err)
		}
		fmt.Fprintf(&out, "\tcase %q:\n\t\treturn %q\n", kind, text)
	}
	out.WriteString("\t}\n\treturn \"\"\n}\n")
	source, err := format.Source(out.Bytes())
	if err != nil {
		return fmt.Errorf("format %s: %w", file, err)
	}
	if err := os.WriteFile(file, source, 0o644); err != nil {
		return fmt.Errorf("write schemas: %w", err)
	}
	return nil
}
