package agents

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

var update = flag.Bool("update", false, "write what comes out into testdata")

// noon is now in tests.
var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// TestPlan shows what the objects of in.yaml come to: what ark makes, or why it does not.
func TestPlan(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/plan/*.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(file)
			require.NoError(t, err)
			got := printPlan(t, decide(readInput(t, archive.Files[0].Data)))
			if *update {
				archive.Files = append(archive.Files[:1], txtar.File{Name: "out.yaml", Data: got})
				require.NoError(t, os.WriteFile(file, txtar.Format(archive), 0o600))
				return
			}
			require.Len(t, archive.Files, 2)
			require.Empty(t, cmp.Diff(string(archive.Files[1].Data), string(got)))
		})
	}
}

// readInput is an agent with everything that the other documents are.
func readInput(t *testing.T, docs []byte) *input {
	t.Helper()
	in := &input{
		now: noon, found: map[objectKey]*content{},
		pods: Pods{
			Image: "ark.example/ark:1", EnvFrom: []string{"ark-api-keys"},
			Env: []corev1.EnvVar{{Name: "OPENAI_BASE_URL", Value: "http://models.shared/v1"}, {Name: "REGION", Value: "north"}},
		},
		access: Access{Credentials: []byte("c"), CA: []byte("a"), URL: "tls://ark-nats.ark-system.svc:4222", RenewAt: noon.Add(72 * time.Hour)},
	}
	for doc := range strings.SplitSeq(string(docs), "\n---\n") {
		var kind metav1.TypeMeta
		require.NoError(t, yaml.Unmarshal([]byte(doc), &kind))
		switch kind.Kind {
		case "Authorities":
			in.pods.CA = []byte(doc)
		case "ArkAgent":
			in.agent = &v1alpha1.ArkAgent{}
			require.NoError(t, yaml.UnmarshalStrict([]byte(doc), in.agent))
			in.agent.Namespace, in.agent.UID, in.agent.Generation = "demo", "uid-1", 1
			in.agent.SetDefaults()
		case "ArkSettings":
			s := &v1alpha1.ArkSettings{}
			require.NoError(t, yaml.UnmarshalStrict([]byte(doc), s))
			s.SetDefaults()
			in.settings = append(in.settings, s)
		case "ArkMemory":
			in.memory = &v1alpha1.ArkMemory{}
			require.NoError(t, yaml.UnmarshalStrict([]byte(doc), in.memory))
		case kindSecret, kindConfigMap:
			m := struct {
				metav1.TypeMeta   `json:",inline"`
				metav1.ObjectMeta `json:"metadata"`
				Data              map[string]string `json:"data"`
			}{}
			require.NoError(t, yaml.UnmarshalStrict([]byte(doc), &m))
			in.found[objectKey{kind.Kind, m.Name}] = contentOf(m.Data)
		default:
			t.Fatalf("kind %q", kind.Kind)
		}
	}
	require.NotNil(t, in.agent)
	in.refs = references(in.agent, in.memory, in.pods.EnvFrom)
	return in
}

func contentOf(data map[string]string) *content {
	c := &content{hashes: map[string]string{}, values: data}
	for k, v := range data {
		sum := sha256.Sum256([]byte(v))
		c.hashes[k] = hex.EncodeToString(sum[:])
	}
	return c
}

// printPlan is a plan as YAML. Hashes are cut, and empty structures left out.
func printPlan(t *testing.T, p *plan) []byte {
	t.Helper()
	var out bytes.Buffer
	add := func(o any) {
		text, err := yaml.Marshal(o)
		require.NoError(t, err)
		out.WriteString("---\n")
		for line := range strings.Lines(string(text)) {
			if strings.HasSuffix(line, ": {}\n") && !strings.HasSuffix(line, "emptyDir: {}\n") && !strings.HasSuffix(line, "namespaceSelector: {}\n") {
				continue
			}
			out.WriteString(line)
		}
	}
	if p.fault != nil {
		fmt.Fprintf(&out, "fault: %s\nmessage: %s\n", p.fault.reason, p.fault.message)
	}
	if p.deployment != nil {
		add(p.deployment)
		add(map[string]string{"prompt": string(p.prompt.Data[keyPrompt])})
	}
	if p.policy != nil {
		add(p.policy.Spec)
	}
	return out.Bytes()
}
