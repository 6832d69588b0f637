package cmd

import (
	"fmt"

	"github.com/spf13/cobra"

	"arkonis.dev/ark/pkg/local"
)

func newValidate(s *streams) *cobra.Command {
	return &cobra.Command{
		Use:   "validate FILE...",
		Short: "Check manifests without running anything",
		Long: `Check everything that can be known without running: schema, graph, templates, schemas, references. Each finding is
one line with its file, line, object and field. FILE is a file, a folder, a URL, or - for standard input.`,
		Example: "  ark validate deploy/samples",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fmt.Errorf("no file: name a YAML file, a folder, a URL, or - for standard input (see '%s --help')", c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			set, err := load(c.Context(), s, args)
			if err != nil {
				return err
			}
			faults := 0
			for _, f := range local.Validate(set) {
				kind := "error"
				if f.Warning {
					kind = "warning"
				} else {
					faults++
				}
				fmt.Fprintf(s.err, "%s: %s\n", kind, f.String())
			}
			if faults > 0 {
				return &exitError{code: ExitUsage, quiet: true, err: fmt.Errorf("%d errors", faults)}
			}
			if set.Len() == 1 {
				fmt.Fprintln(s.out, "1 object is valid")
				return nil
			}
			fmt.Fprintf(s.out, "%d objects are valid\n", set.Len())
			return nil
		},
	}
}
