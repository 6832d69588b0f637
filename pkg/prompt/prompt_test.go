package prompt_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/prompt"
)

func TestSystem(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		parts prompt.Parts
		want  string
	}{
		"all parts, in order": {
			prompt.Parts{Prepend: []string{"persona", "house rules"}, Base: "You write.\n", Append: []string{" rules "}, Guidance: []string{"use search first"}},
			"persona\n\nhouse rules\n\nYou write.\n\nrules\n\nuse search first\n\n" + prompt.Note,
		},
		"empty parts leave no gaps": {prompt.Parts{Prepend: []string{""}, Base: "You write."}, "You write.\n\n" + prompt.Note},
		"nothing but the note":      {prompt.Parts{}, prompt.Note},
	} {
		require.Equal(t, c.want, prompt.System(c.parts), name)
		require.Equal(t, c.want, prompt.WithNote(c.want), "the note stands once: %s", name)
	}
}
