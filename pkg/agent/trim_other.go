//go:build !linux

package agent

import "runtime/debug"

// trim gives back what only the start has needed.
func trim() error {
	debug.FreeOSMemory()
	return nil
}
