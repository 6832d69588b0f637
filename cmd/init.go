package cmd

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

//go:embed all:template
var projectFiles embed.FS

func newInit(s *streams) *cobra.Command {
	return &cobra.Command{
		Use:   "init NAME",
		Short: "Make a folder with a sample team that runs at once",
		Long: `Make a folder NAME with a sample team, a mock script and an .env example. The team runs at once, without a key:

  ark init hello && ark run hello --mock-script hello/mock/script.yaml --input subject=tides`,
		Args: oneArg("the name of the folder to make"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := writeProject(args[0]); err != nil {
				return err
			}
			fmt.Fprintf(s.err, "Made %s. Run it:\n", args[0])
			fmt.Fprintf(s.out, "ark run %s --mock-script %s --input subject=tides\n", args[0], filepath.Join(args[0], "mock", "script.yaml"))
			return nil
		},
	}
}

// oneArg is cobra.ExactArgs(1) with an error that says what is missing.
func oneArg(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == 1 {
			return nil
		}
		return fmt.Errorf("%s takes one argument, %s, and got %d (see '%s --help')", c.CommandPath(), what, len(args), c.CommandPath())
	}
}

// writeProject makes the folder and refuses one that exists: nothing of the user's is ever overwritten.
func writeProject(dir string) error {
	name := filepath.Base(filepath.Clean(dir))
	if !regexp.MustCompile(`^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$`).MatchString(name) {
		return fmt.Errorf("init %q: the folder's name names the team, so it must be 1 to 40 lower-case letters, digits and '-', and start with a letter", dir)
	}
	err := os.MkdirAll(filepath.Dir(dir), 0o755)
	if err == nil {
		err = os.Mkdir(dir, 0o755)
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("init %q: it exists already; choose another name or remove it", dir)
	}
	if err != nil {
		return fmt.Errorf("init %q: %w", dir, err)
	}
	return fs.WalkDir(projectFiles, "template", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel("template", path)
		if err != nil || rel == "." {
			return err
		}
		target := filepath.Join(dir, strings.Replace(rel, "env.example", ".env.example", 1))
		if d.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		body, err := projectFiles.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, []byte(strings.ReplaceAll(string(body), "@NAME@", name)), 0o644)
	})
}
