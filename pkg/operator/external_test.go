package operator

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAtLeast(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{
		"2.12.0": true, "2.12.0-RC.1": true, "2.13.1": true, "3.0.0": true, "v2.12.3": true,
		"2.11.9": false, "1.13.0": false, "2": false, "": false, "x.y.z": false,
	} {
		require.Equal(t, want, atLeast(version, leastMajor, leastMinor), version)
	}
}

func TestCheckURL(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"nats://nats.example:4222":                   "",
		"tls://a.example:4222, tls://b.example":      "",
		"nats://ark:secret@nats.example:4222":        "give nats://nats.example:4222 and a file of credentials",
		"tls://a.example:4222,tls://token@b.example": "give tls://b.example and a file of credentials",
		"nats.example:4222":                          "give addresses such as",
		"tls://a.example,":                           "give addresses such as",
	} {
		err := checkURL(address)
		if want == "" {
			require.NoError(t, err, address)
			continue
		}
		require.ErrorContains(t, err, want, address)
		require.NotContains(t, err.Error(), "secret")
	}
}
