package task_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/task"
)

func TestSessionsKeepConversationsApart(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 200)
	names := map[string]bool{}
	for _, run := range []task.Run{
		{UID: "1", Name: "a"},
		{UID: "1", Name: "a", Team: "crew"},
		{UID: "1", Name: "a", Team: "agent"},
		{UID: "1", Name: "a", Team: "crew", Session: "crew"},
		{UID: "1", Name: "a", Team: "crew", Session: "chat-7"},
		{UID: "1", Name: "a", Session: long},
		{UID: "1", Name: "a", Session: long + "y"},
	} {
		one := (&task.Task{Run: run}).Session()
		require.Less(t, len(one), 128)
		require.False(t, names[one], "%v shares session %s", run, one)
		names[one] = true
		run.UID, run.Name = "2", "b"
		require.Equal(t, one, (&task.Task{Run: run}).Session(), "the next run of the same conversation")
	}
}
