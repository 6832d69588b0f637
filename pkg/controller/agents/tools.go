package agents

import (
	"cmp"
	"encoding/json"
	"path"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/environ"
)

// toolFiles are the secrets of an agent's tools and of its memory, as files in its pods.
type toolFiles struct{ files []secretFile }

type secretFile struct{ secret, key string }

// file is the path of a key of a Secret, which is mounted from then on.
func (t *toolFiles) file(secret, key string) string {
	f := secretFile{secret, key}
	if !slices.Contains(t.files, f) {
		t.files = append(t.files, f)
	}
	return path.Join(dirSecrets, secret, key)
}

// sources are the Secrets of the volume that has the files.
func (t *toolFiles) sources() []corev1.VolumeProjection {
	sorted := slices.Clone(t.files)
	slices.SortFunc(sorted, func(a, b secretFile) int { return cmp.Or(cmp.Compare(a.secret, b.secret), cmp.Compare(a.key, b.key)) })
	var all []corev1.VolumeProjection
	for _, f := range sorted {
		item := corev1.KeyToPath{Key: f.key, Path: path.Join(f.secret, f.key)}
		if n := len(all); n > 0 && all[n-1].Secret.Name == f.secret {
			all[n-1].Secret.Items = append(all[n-1].Secret.Items, item)
			continue
		}
		all = append(all, corev1.VolumeProjection{Secret: &corev1.SecretProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: f.secret}, Items: []corev1.KeyToPath{item},
		}})
	}
	return all
}

// tools are the files that the agent's tools and its memory read.
func tools(in *input) toolFiles {
	var t toolFiles
	t.servers(in)
	t.webhooks(in)
	t.memory(in)
	return t
}

func (t *toolFiles) headers(all []v1alpha1.Header) []environ.Header {
	var out []environ.Header
	for i := range all {
		h := environ.Header{Name: all[i].Name, Value: all[i].Value}
		if k := all[i].Secret(); k != nil {
			h = environ.Header{Name: all[i].Name, File: t.file(k.Name, k.Key)}
		}
		out = append(out, h)
	}
	return out
}

// servers are MCP_SERVERS. Their guidance stands in the prompt already.
func (t *toolFiles) servers(in *input) []environ.MCPServer {
	var out []environ.MCPServer
	for i := range in.agent.Spec.MCPServers {
		s := &in.agent.Spec.MCPServers[i]
		e := environ.MCPServer{
			Name: s.Name, URL: s.URL, Command: s.Command, Args: s.Args, Transport: string(s.Transport),
			Headers: t.headers(s.Headers), Required: s.Required, Idempotent: s.Idempotent,
		}
		if s.Tools != nil {
			e.Tools = &environ.Filter{Allow: s.Tools.Allow, Deny: s.Tools.Deny}
		}
		switch {
		case s.Auth == nil:
		case s.Auth.MTLS != nil:
			name := s.Auth.MTLS.SecretRef.Name
			e.Auth = &environ.Auth{Type: string(v1alpha1.MCPAuthMTLS), CertFile: t.file(name, keyCertificate), KeyFile: t.file(name, keyPrivate)}
			if c := in.found[objectKey{kindSecret, name}]; c != nil && c.hashes[keyAuthority] != "" {
				e.Auth.CAFile = t.file(name, keyAuthority)
			}
		default:
			if token := s.Auth.Token(); token != nil {
				e.Auth = &environ.Auth{Type: string(v1alpha1.MCPAuthBearer), File: t.file(token.Name, token.Key)}
			}
		}
		out = append(out, e)
	}
	return out
}

// webhooks are WEBHOOK_TOOLS.
func (t *toolFiles) webhooks(in *input) []environ.WebhookTool {
	var out []environ.WebhookTool
	for i := range in.agent.Spec.Tools {
		w := &in.agent.Spec.Tools[i]
		out = append(out, environ.WebhookTool{
			Name: w.Name, Description: w.Description, URL: w.URL, Method: string(w.Method), Headers: t.headers(w.Headers),
			InputSchema: environ.Schema(w.InputSchema), TimeoutSeconds: w.TimeoutSeconds, Idempotent: w.Idempotent,
		})
	}
	return out
}

// memory are the variables of what the agent remembers with, but for the backend of its settings.
func (t *toolFiles) memory(in *input) []corev1.EnvVar {
	if in.memory == nil {
		return nil
	}
	m := in.memory.DeepCopy()
	m.SetDefaults()
	s := &m.Spec
	out := []corev1.EnvVar{{Name: environ.MemoryBackend, Value: string(s.Backend)}}
	if n := s.NATS; n != nil {
		out = append(out, jsonVar(environ.MemoryNATSSettings, environ.MemoryNATS{TTLSeconds: n.TTLSeconds, MaxEntries: n.MaxEntries}))
	}
	if r := s.Redis; r != nil {
		out = append(out, jsonVar(environ.MemoryRedisSettings, environ.MemoryRedis{
			TTLSeconds: r.TTLSeconds, MaxEntries: r.MaxEntries, URLFile: t.file(r.SecretRef.Name, environ.RedisURL),
		}))
	}
	if v := s.VectorStore; v != nil {
		e := environ.MemoryVectorStore{Provider: string(v.Provider), Endpoint: v.Endpoint, Collection: v.Collection, TTLSeconds: v.TTLSeconds}
		if v.SecretRef != nil {
			e.SecretFile = t.file(v.SecretRef.Name, vectorKey(v.Provider))
			if c := in.found[objectKey{kindSecret, v.SecretRef.Name}]; c != nil && v.Provider == v1alpha1.VectorStorePgvector {
				e.User = c.values[environ.PostgresUser]
			}
		}
		out = append(out, jsonVar(environ.MemoryVectorStoreSettings, e))
	}
	if b := s.Embedding; b != nil {
		e := environ.MemoryEmbedding{Model: b.Model, Provider: string(b.Provider), Dimensions: int64(b.Dimensions)}
		if b.APIKeyRef != nil {
			e.APIKeyFile = t.file(b.APIKeyRef.Name, b.APIKeyRef.Key)
		}
		out = append(out, jsonVar(environ.MemoryEmbeddingSettings, e))
	}
	return out
}

// jsonVar is a variable that holds JSON. $( is written in another way, as it names a variable to a kubelet.
func jsonVar(name string, v any) corev1.EnvVar {
	text, err := json.Marshal(v)
	if err != nil { // a schema that is no JSON was found before
		text = []byte("null")
	}
	return corev1.EnvVar{Name: name, Value: literal(string(text))}
}

// literal is a text that a kubelet puts into the environment as it is.
func literal(text string) string {
	out := make([]byte, 0, len(text))
	for i := range len(text) {
		if text[i] == '$' && i+1 < len(text) && (text[i+1] == '(' || text[i+1] == '$') {
			out = append(out, '$')
		}
		out = append(out, text[i])
	}
	return string(out)
}

func seconds(n int64) string { return strconv.FormatInt(n, 10) }
