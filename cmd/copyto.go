package cmd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

// authoritiesFile is where ark's image has its certificate authorities.
const authoritiesFile = "/etc/ssl/certs/ca-certificates.crt"

// newCopyTo is what the first container of an agent's pod runs when the agent has an image of its own: it puts ark, which
// that image does not hold, and certificate authorities beside its programs.
func newCopyTo() *cobra.Command {
	return &cobra.Command{
		Use:    "copy-to FOLDER",
		Short:  "Copy this program and the certificate authorities of its image into a folder",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("where this program is: %w", err)
			}
			if err := copyFile(self, filepath.Join(args[0], "ark"), 0o755); err != nil {
				return err
			}
			err = copyFile(authoritiesFile, filepath.Join(args[0], filepath.Base(authoritiesFile)), 0o644)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		},
	}
}

// copyFile copies a file; what has the name already is replaced.
func copyFile(from, to string, mode fs.FileMode) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return os.Rename(to+".part", to)
}
