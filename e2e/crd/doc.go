// Package crd holds the tests of the CRDs in crds/ against the API server's own code: that it accepts them, what it
// fills in, what it refuses and in which words, and that ark's own validation decides the same without it. It is a
// module of its own, so that ark does not depend on the API server.
package crd
