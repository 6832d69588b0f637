// Command generate writes the plain manifests: the chart rendered with its default values for the namespace ark-system.
//
//	generate CHART FOLDER
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"arkonis.dev/ark/e2e/chart/render"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("want CHART FOLDER, got %q", args)
	}
	crds, operator, err := render.Release{
		Chart: args[0], Namespace: "ark-system",
		Values: map[string]any{"namespace": map[string]any{"create": true}},
	}.Manifests()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(args[1], 0o755); err != nil {
		return err
	}
	for name, text := range map[string][]byte{"crds.yaml": crds, "operator.yaml": operator} {
		head := []byte("# Generated from deploy/chart by `make generate`; do not edit.\n")
		if err := os.WriteFile(filepath.Join(args[1], name), append(head, text...), 0o644); err != nil {
			return err
		}
	}
	return nil
}
