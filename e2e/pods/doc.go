// Package pods holds the tests of the whole of ark on a cluster with real nodes: installed as users install it, from the
// image that users run, with agents as pods.
package pods
