// Command ark runs AI agents as Kubernetes resources: the operator, the agent runtime, and the command line.
package main

import (
	"os"

	"arkonis.dev/ark/cmd"
)

func main() { os.Exit(cmd.Main()) }
