// Package e2e holds the tests that look at ark from outside: the borders between its packages, the command line as
// a process, and processes killed for real. Tests that need a module of their own stand in folders below.
package e2e
