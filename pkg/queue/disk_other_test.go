//go:build !linux

package queue_test

import "context"

// Only Linux gives a test a disk of its own to fill.
func systemRoles() map[string]func(ctx context.Context, dir string) error { return nil }
