package v1alpha1_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
)

func TestValueKeepsWhatWasWritten(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`null`, `true`, `"a \u003c b"`, `12345678901234567890`, `1.50`, `[1,[2,{"a":null}]]`, `{"b":1,"a":[]}`,
	} {
		var v v1alpha1.Value
		require.NoError(t, json.Unmarshal([]byte(text), &v))
		out, err := v.MarshalJSON()
		require.NoError(t, err)
		require.Equal(t, text, string(out))
	}
}

func TestValueDecode(t *testing.T) {
	t.Parallel()
	var values v1alpha1.Values
	require.NoError(t, json.Unmarshal([]byte(`{"n": 12345678901234567890, "l": [ 1.50 , null ], "s": "x", "z": null}`), &values))
	got, err := values.Decode()
	require.NoError(t, err)
	require.Equal(t, map[string]any{
		"n": json.Number("12345678901234567890"), "l": []any{json.Number("1.50"), nil}, "s": "x", "z": nil,
	}, got)
	require.True(t, values["z"].IsNull())
	require.True(t, v1alpha1.Value{}.IsNull())
	require.False(t, values["s"].IsNull())
}

func TestNewValues(t *testing.T) {
	t.Parallel()
	values, err := v1alpha1.NewValues(map[string]any{"a": []any{1, "x"}})
	require.NoError(t, err)
	require.Equal(t, v1alpha1.Values{"a": {Raw: json.RawMessage(`[1,"x"]`)}}, values)

	none, err := v1alpha1.NewValues(nil)
	require.NoError(t, err)
	require.Nil(t, none)
	empty, err := none.Decode()
	require.NoError(t, err)
	require.Equal(t, map[string]any{}, empty)

	_, err = v1alpha1.NewValues(map[string]any{"a": make(chan int)})
	require.ErrorContains(t, err, "a: encode value: json: unsupported type: chan int")
	_, err = v1alpha1.Values{"a": {Raw: json.RawMessage(`{`)}}.Decode()
	require.ErrorContains(t, err, "a: decode value: unexpected EOF")
}

func TestValueIsCopiedDeeply(t *testing.T) {
	t.Parallel()
	run := &v1alpha1.ArkRun{Spec: v1alpha1.ArkRunSpec{Input: v1alpha1.Values{"a": {Raw: json.RawMessage(`"x"`)}}}}
	dup := run.DeepCopy()
	dup.Spec.Input["a"].Raw[1] = 'y'
	require.Equal(t, `"x"`, string(run.Spec.Input["a"].Raw))
}
