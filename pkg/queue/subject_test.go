package queue_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
)

func TestTokenKeepsPlainNames(t *testing.T) {
	t.Parallel()
	for name, token := range map[string]string{
		"":            "_",
		"writer":      "writer",
		"Writer-2":    "Writer-2",
		"a.b":         "a_2eb",
		"a_b":         "a_5fb",
		"*":           "_2a",
		"> \r\n":      "_3e_20_0d_0a",
		"é":           "_c3_a9",
		"run.uid/x y": "run_2euid_2fx_20y",
	} {
		require.Equal(t, token, queue.Token(name))
	}
}

func TestSubjects(t *testing.T) {
	t.Parallel()
	key := queue.Key{Namespace: "default", Agent: "a.b", RunUID: "uid", TaskID: "t"}
	require.Equal(t, "ark.call.default.a_2eb.uid.t", queue.CallSubject(key))
	require.Equal(t, "ark.budget.default.step.uid.my-step", queue.BudgetSubject("default", "step.uid.my-step"))
	require.Equal(t, "ark.budget.default.agent._2a._.x", queue.BudgetSubject("default", "agent.*..x"))
	require.Equal(t, "ark.work.default.a_2eb.payload_2eput", queue.WorkSubject("default", "a.b", "payload.put"))
}

func FuzzToken(f *testing.F) {
	f.Add("writer", "a.b")
	f.Add("", "_")
	f.Add("a_2eb", "a.b")
	f.Fuzz(func(t *testing.T, a, b string) {
		token := queue.Token(a)
		require.NotEmpty(t, token)
		require.False(t, strings.ContainsAny(token, ".*> \t\r\n\x00"), token)
		back, err := queue.Untoken(token)
		require.NoError(t, err)
		require.Equal(t, a, back)
		if a != b {
			require.NotEqual(t, token, queue.Token(b))
		}
		if name, err := queue.Untoken(b); err == nil {
			require.Equal(t, b, queue.Token(name), "two tokens of one name")
		}
	})
}
