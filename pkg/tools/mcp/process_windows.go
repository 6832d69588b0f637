package mcp

import "os/exec"

// ownGroup does nothing: processes have no groups here, only the command itself is ended.
func ownGroup(*exec.Cmd) {}

func terminateGroup(cmd *exec.Cmd) { killGroup(cmd) }

func killGroup(cmd *exec.Cmd) { _ = cmd.Process.Kill() }
