package main

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// instruction is a line of a Dockerfile, with what it continues on joined to it.
type instruction struct{ name, rest string }

// finalStage returns the instructions from the last FROM on.
func finalStage(t *testing.T) []instruction {
	t.Helper()
	text, err := os.ReadFile("../../Dockerfile")
	require.NoError(t, err)
	var all []instruction
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", " ")) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case name == "" || strings.HasPrefix(name, "#"):
			continue
		case name == "FROM":
			all = nil
		}
		all = append(all, instruction{name: name, rest: strings.TrimSpace(rest)})
	}
	return all
}

// The Dockerfile and the builder make one image: base, user, entrypoint, folder, labels and files agree.
func TestDockerfileMakesTheSameImage(t *testing.T) {
	t.Parallel()
	got := map[string][]string{}
	for _, i := range finalStage(t) {
		got[i.name] = append(got[i.name], i.rest)
	}
	foundLabels := map[string]string{}
	for _, m := range regexp.MustCompile(`([a-z.]+)="([^"]*)"`).FindAllStringSubmatch(strings.Join(got["LABEL"], " "), -1) {
		foundLabels[m[1]] = m[2]
	}
	require.Equal(t, labels("$VERSION"), foundLabels)
	delete(got, "LABEL")
	entrypoint, err := json.Marshal([]string{"/ark"})
	require.NoError(t, err)
	require.Equal(t, map[string][]string{
		"FROM": {"scratch"}, "ARG": {"VERSION=dev"}, "COPY": {"--from=build /rootfs/ /"}, "WORKDIR": {"/"},
		"USER": {user}, "ENTRYPOINT": {string(entrypoint)},
	}, got)
}

// The Dockerfile builds with the Go release that go.mod asks for.
func TestDockerfileHasTheGoReleaseOfTheModule(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../Dockerfile")
	require.NoError(t, err)
	mod, err := os.ReadFile("../../go.mod")
	require.NoError(t, err)
	release := regexp.MustCompile(`(?m)^go (\S+)$`).FindSubmatch(mod)
	require.NotNil(t, release)
	require.Contains(t, string(text), "FROM --platform=$BUILDPLATFORM golang:"+string(release[1])+" AS build\n")
}
