// Package operator holds the tests of `ark operator` as a process, on a real API server that runs no pods.
package operator
