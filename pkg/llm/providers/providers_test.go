package providers_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/mock"
	"arkonis.dev/ark/pkg/llm/providers"
)

func TestServersAreShared(t *testing.T) {
	t.Parallel()
	p := providers.NewPool(mock.Script{})
	get := func(s providers.Server) llm.Provider {
		made, err := p.Get(s)
		require.NoError(t, err)
		require.Equal(t, s.Provider, made.Name())
		return made
	}
	local := providers.Server{Provider: llm.OpenAI, BaseURL: "http://127.0.0.1:1/v1"}
	require.Same(t, get(local), get(local))
	require.NotSame(t, get(local), get(providers.Server{Provider: llm.OpenAI, BaseURL: "http://127.0.0.1:1/v1", Key: "k"}))
	get(providers.Server{Provider: llm.Anthropic, Key: "k"})
	require.Same(t, get(providers.Server{Provider: llm.Mock}), get(providers.Server{Provider: llm.Mock, Key: "not used"}))
}

func TestWhatCannotBeMade(t *testing.T) {
	t.Parallel()
	p := providers.NewPool(mock.Script{})
	_, err := p.Get(providers.Server{Provider: "gpt", Key: "k"})
	require.ErrorIs(t, err, providers.ErrUnknown)
	for _, provider := range []string{llm.OpenAI, llm.Anthropic} {
		_, err = p.Get(providers.Server{Provider: provider})
		require.ErrorIs(t, err, providers.ErrNoKey)
		_, err = p.Get(providers.Server{Provider: provider, BaseURL: "no address"})
		require.Error(t, err)
	}
	key, url := providers.Variables(llm.Anthropic)
	require.Equal(t, []string{"ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"}, []string{key, url})
	key, url = providers.Variables(llm.Mock)
	require.Empty(t, key+url)
}
