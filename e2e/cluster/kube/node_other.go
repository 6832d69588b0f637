//go:build !linux

package main

import "github.com/spf13/cobra"

// nodePrograms is empty: nodes need Linux, the control plane does not.
func nodePrograms() map[string]func() *cobra.Command { return nil }
