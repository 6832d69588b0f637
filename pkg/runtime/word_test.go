package runtime

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWholeWord(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"HEALTHY": true, "HEALTHY.": true, "I am HEALTHY": true, "(HEALTHY)": true, "UNHEALTHY but HEALTHY": true, "**HEALTHY**": true,
		"é HEALTHY": true, "": false, "UNHEALTHY": false, "HEALTHYISH": false, "healthy": false, "HEALTHY_": false, "HEALTHY2": false,
		"éHEALTHY": false, "HEALTHYé": false, "HEALTH": false,
	} {
		require.Equal(t, want, holdsWord(text, "HEALTHY"), text)
	}
	require.True(t, holdsWord("all is well.", "all is well"))
	require.True(t, holdsWord("aa a", "a"))
	require.False(t, holdsWord("x", ""))
}
