package cmd

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

func noArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("%s takes no argument, and got %q (see '%s --help')", c.CommandPath(), args[0], c.CommandPath())
}

func newVersion(s *streams) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the version of ark",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			platform := runtime.GOOS + "/" + runtime.GOARCH
			switch output {
			case "text":
				fmt.Fprintf(s.out, "ark %s (%s, %s)\n", version, runtime.Version(), platform)
				return nil
			case "json":
				return json.NewEncoder(s.out).Encode(map[string]string{
					"version": version, "goVersion": runtime.Version(), "platform": platform,
				})
			}
			return fmt.Errorf("--output: %q is not a format; use text or json", output)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}
