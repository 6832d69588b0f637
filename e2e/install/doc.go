// Package install holds the tests of ark install and ark uninstall against a real API server.
package install
