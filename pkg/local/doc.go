// Package local runs teams and agents from their manifests inside one process: `ark run` as a library.
//
// A Host is what a cluster is elsewhere: the embedded queue server, the work service, one runtime per agent, and a
// store of ArkRuns. It drives any number of runs at once, each through a runner.Live, and their child runs with them.
// Run is the whole of `ark run`: it makes a Host, runs one team or agent in it, shows the progress and ends it.
// Plan says what a run would do and cost at most; Validate finds everything that can be known to be wrong without
// running.
//
// With Options.Store the queue is kept in a folder, and a run that a dead process left behind goes on with
// Options.Resume. The record of a run holds the manifests it was started with - but no Secret - so that it needs
// nothing else. What was answered and journaled is not paid for again.
package local
