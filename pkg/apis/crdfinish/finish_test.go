package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const before = `
spec:
  names: {kind: ArkTeam}
  versions:
  - schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          apiVersion: {type: string}
          spec:
            type: object
            description: What shall be.
            properties:
              name: {type: string, default: x}
              short: {type: string, maxLength: 3}
              kind: {type: string, enum: [a, b]}
              any: {x-kubernetes-preserve-unknown-fields: true}
              roles:
                type: array
                items:
                  type: object
                  properties:
                    limit: {type: integer, default: 5}
                    labels: {type: object, additionalProperties: {type: string}}
`

const after = `---
spec:
  names:
    kind: ArkTeam
  versions:
  - schema:
      openAPIV3Schema:
        properties:
          apiVersion:
            type: string
          spec:
            description: What shall be.
            properties:
              any:
                nullable: true
                x-kubernetes-preserve-unknown-fields: true
              kind:
                enum:
                - a
                - b
                type: string
              name:
                default: x
                maxLength: 65536
                type: string
              roles:
                items:
                  properties:
                    labels:
                      additionalProperties:
                        maxLength: 65536
                        type: string
                      maxProperties: 256
                      type: object
                    limit:
                      type: integer
                  type: object
                maxItems: 256
                type: array
              short:
                maxLength: 3
                type: string
            type: object
        required:
        - spec
        type: object
`

func TestFinish(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, goFile := filepath.Join(dir, "teams.yaml"), filepath.Join(dir, "schema.go")
	require.NoError(t, os.WriteFile(file, []byte(before), 0o600))
	for range 2 { // the second time changes nothing
		require.NoError(t, run(dir, goFile))
		got, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, after, string(got))
	}
	source, err := os.ReadFile(goFile)
	require.NoError(t, err)
	require.Contains(t, string(source), `case "ArkTeam":`)
	require.NotContains(t, string(source), "What shall be")
}

func TestFinishSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, run(t.TempDir(), "x.go"), "no CRDs in ")
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("spec: {}"), 0o600))
	require.ErrorContains(t, run(dir, "x.go"), "a.yaml: no names in the CRD")
}
