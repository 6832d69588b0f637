package chart

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"arkonis.dev/ark/e2e/chart/render"
	"arkonis.dev/ark/pkg/install"
)

// set returns values with one more at a path such as "nats.url"; what values has of it stays.
func set(values map[string]any, path string, value any) map[string]any {
	out := map[string]any{}
	for k, v := range values {
		out[k] = v
	}
	first, rest, deeper := strings.Cut(path, ".")
	if deeper {
		inner, _ := out[first].(map[string]any)
		value = set(inner, rest, value)
	}
	out[first] = value
	return out
}

// effect is a value other than the default, what it takes to matter, and what it brings into the manifests. A gone text
// is one that the default has and this has not.
type effect struct {
	value      any
	with       map[string]any
	want, gone string
}

func effects() map[string]effect {
	external := set(nil, "nats.url", "nats://nats:4222")
	creds := set(external, "nats.credentialsSecret.name", "creds")
	list := func(items ...any) []any { return items }
	one := func(k string, v any) map[string]any { return map[string]any{k: v} }
	return map[string]effect{
		"image.repository": {value: "registry.example/ark", want: `image: "registry.example/ark:0.1.0"`},
		"image.tag":        {value: "v7", want: `image: "arkonis.dev/ark:v7"`},
		"image.pullPolicy": {value: "Always", want: "imagePullPolicy: Always"},
		"imagePullSecrets": {value: list(one("name", "registry")), want: "imagePullSecrets:"},
		"watchNamespaces":  {value: list("a", "b"), want: `{name: ARK_WATCH_NAMESPACES, value: "a,b"}`},
		"agentImage":       {value: "other/ark:v1", want: `{name: ARK_AGENT_IMAGE, value: "other/ark:v1"}`},
		"agentExtraEnv":    {value: list(one2("OPENAI_BASE_URL", `http://m/$(X)?a="b"`)), want: `- "--agent-env=OPENAI_BASE_URL=http://m/$$(X)?a=\"b\""`},
		"agentEnvFrom":     {value: list("x", "y"), want: `{name: ARK_AGENT_ENV_FROM, value: "x,y"}`},

		"nats.url":                         {value: "tls://nats:4222", want: `{name: ARK_NATS_URL, value: "tls://nats:4222"}`, gone: "kind: StatefulSet"},
		"nats.credentialsSecret.name":      {value: "creds", with: external, want: `secret: {secretName: "creds"}`},
		"nats.credentialsSecret.key":       {value: "k", with: creds, want: `{name: ARK_NATS_CREDS, value: "/etc/ark/nats/k"}`},
		"nats.agentCredentialsSecret.name": {value: "agents", with: external, want: `secret: {secretName: "agents"}`},
		"nats.agentCredentialsSecret.key": {
			value: "k", with: set(external, "nats.agentCredentialsSecret.name", "agents"),
			want: `{name: ARK_NATS_AGENT_CREDS, value: "/etc/ark/nats-agents/k"}`,
		},
		"nats.ca.configMap":   {value: "roots", with: external, want: `configMap: {name: "roots", items: [{key: "ca.crt", path: ca.crt}]}`},
		"nats.ca.secret":      {value: "roots", with: external, want: "{name: ARK_NATS_CA, value: /etc/ark/nats-ca/ca.crt}"},
		"nats.ca.key":         {value: "root.pem", with: set(external, "nats.ca.secret", "roots"), want: `key: "root.pem"`},
		"nats.streamReplicas": {value: 3, with: external, want: `{name: ARK_NATS_REPLICAS, value: "3"}`},
		"replicas":            {value: 5, with: external, want: "replicas: 5"},

		"persistence.storageClass": {value: "fast", want: `storageClassName: "fast"`},
		"persistence.size":         {value: "20Gi", want: `requests: {storage: "20Gi"}`},
		"persistence.storeSize":    {value: "15Gi", want: `{name: ARK_STORE_SIZE, value: "15Gi"}`},
		"persistence.accessMode":   {value: "ReadWriteOnce", want: "accessModes: [ReadWriteOnce]"},

		"log.level":     {value: "debug", want: "{name: ARK_LOG_LEVEL, value: debug}"},
		"log.format":    {value: "text", want: "{name: ARK_LOG_FORMAT, value: text}"},
		"otlp.endpoint": {value: "http://c:4317", want: `- "--agent-env=OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4317"`},
		"otlp.protocol": {value: "http/protobuf", with: set(nil, "otlp.endpoint", "http://c:4318"), want: `{name: OTEL_EXPORTER_OTLP_PROTOCOL, value: "http/protobuf"}`},
		"proxy.http":    {value: "http://p:1", want: `{name: HTTP_PROXY, value: "http://p:1"}`},
		"proxy.https":   {value: "http://p:1", want: `- "--agent-env=HTTPS_PROXY=http://p:1"`},
		"proxy.noProxy": {value: ".corp", with: set(nil, "proxy.http", "http://p:1"), want: `{name: NO_PROXY, value: "$(KUBERNETES_SERVICE_HOST),.corp"}`},

		"extraCA.configMap":     {value: "roots", want: `configMap: {name: "roots", items: [{key: "ca.crt", path: ca.crt}]}`},
		"extraCA.secret":        {value: "roots", want: "{name: SSL_CERT_DIR, value: /etc/ark/ca}"},
		"extraCA.key":           {value: "root.pem", with: set(nil, "extraCA.secret", "roots"), want: `key: "root.pem"`},
		"aggregatedAPI.enabled": {value: false, gone: "kind: APIService"},

		"resources.requests":            {value: one("cpu", "2"), want: `cpu: "2"`},
		"resources.limits":              {value: one("memory", "3Gi"), want: "memory: 3Gi"},
		"nodeSelector":                  {value: one("disk", "ssd"), want: "disk: ssd"},
		"tolerations":                   {value: list(one("key", "spot")), want: "- key: spot"},
		"affinity":                      {value: one("podAntiAffinity", map[string]any{}), want: "podAntiAffinity: {}"},
		"topologySpreadConstraints":     {value: list(map[string]any{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}), want: "topologyKey: zone"},
		"priorityClassName":             {value: "high", want: `priorityClassName: "high"`},
		"terminationGracePeriodSeconds": {value: 90, want: "terminationGracePeriodSeconds: 90"},
		"podLabels":                     {value: one("team", "platform"), want: "team: platform"},
		"podAnnotations":                {value: one("note", "x"), want: "note: x"},
		"serviceAccount.annotations":    {value: one("role", "arn"), want: "role: arn"},
		"metrics.scrapeAnnotations":     {value: false, gone: "prometheus.io/scrape"},
		"rbac.userRoles":                {value: false, gone: "name: ark-view"},
		"networkPolicy.enabled":         {value: false, gone: "kind: NetworkPolicy"},
		"podDisruptionBudget.enabled":   {value: false, gone: "kind: PodDisruptionBudget"},
		"namespace.create":              {value: true, want: "kind: Namespace"},
		"crds.install":                  {value: false, gone: "kind: CustomResourceDefinition"},
	}
}

func one2(name, value string) map[string]any { return map[string]any{"name": name, "value": value} }

// leaves are the paths of all values that the chart documents.
func leaves(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(chartDir + "/values.yaml")
	require.NoError(t, err)
	var values map[string]any
	require.NoError(t, yaml.UnmarshalStrict(text, &values))
	var paths []string
	var walk func(prefix string, v any)
	walk = func(prefix string, v any) {
		m, ok := v.(map[string]any)
		// What is free of form, and what resources has, is one value.
		if !ok || len(m) == 0 || strings.HasPrefix(prefix, "resources.") {
			paths = append(paths, prefix)
			return
		}
		for k, inner := range m {
			walk(strings.TrimPrefix(prefix+"."+k, "."), inner)
		}
	}
	walk("", values)
	return paths
}

// Every value that the chart has does what its name says, and what comes of it is valid.
func TestEveryValueHasItsEffect(t *testing.T) {
	t.Parallel()
	cases := effects()
	for _, path := range leaves(t) {
		e, ok := cases[path]
		require.True(t, ok, "no case for the value %s", path)
		delete(cases, path)
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			text := func(values map[string]any) string {
				crds, operator := manifests(t, values)
				decoded(t, operator)
				return strings.Join(regexp.MustCompile(`(?m)^kind: .*$`).FindAllString(string(crds), -1), "\n") + "\n" + string(operator)
			}
			before, after := text(e.with), text(set(e.with, path, e.value))
			if e.want != "" {
				require.NotContains(t, before, e.want)
				require.Contains(t, after, e.want)
			}
			if e.gone != "" {
				require.Contains(t, before, e.gone)
				require.NotContains(t, after, e.gone)
			}
		})
	}
	require.Empty(t, cases, "cases for values that the chart does not have")
}

func TestWrongValuesAreRefused(t *testing.T) {
	t.Parallel()
	for path, value := range map[string]any{
		"natsUrl": "x", "image.tagg": "x", "nats.credentialsSecret.nam": "x", "persistence.sizes": "1Gi", // unknown
		"image.repository": "", "image.tag": "a b", "image.pullPolicy": "Sometimes", "imagePullSecrets": []any{"x"},
		"watchNamespaces": []any{"A_b"}, "agentExtraEnv": []any{map[string]any{"name": "A B", "value": "x"}}, "agentEnvFrom": "x",
		"nats.url": "nats://ark:secret@nats:4222", "nats.ca": map[string]any{"configMap": "a", "secret": "b"}, "nats.streamReplicas": 0, "replicas": 2, "persistence.size": "much", "persistence.storeSize": "-1Gi",
		"persistence.accessMode": "ReadWriteMany", "log.level": "loud", "log.format": "xml", "otlp.endpoint": "collector:4317",
		"otlp.protocol": "udp", "proxy.http": "proxy", "extraCA": map[string]any{"configMap": "a", "secret": "b"},
		"aggregatedAPI.enabled": "yes", "resources.cpu": "1", "affinity.pod": map[string]any{},
		"terminationGracePeriodSeconds": 0, "podLabels": map[string]any{"a": 1}, "crds.install": "no",
	} {
		_, err := render.Release{Chart: chartDir, Namespace: namespace, Values: set(nil, path, value)}.Files()
		require.Error(t, err, "%s: %v", path, value)
	}
}

// ark install with flags makes what the chart makes with the values of the same meaning.
func TestInstallIsTheChart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		settings install.Settings
		values   map[string]any
	}{
		"defaults": {settings: install.Settings{Namespace: "ark-system"}},
		"everything": {
			settings: install.Settings{
				Namespace: "other", Image: "registry.example/team/ark:v1", PullSecrets: []string{"registry"}, Watch: []string{"a", "b"},
				StorageClass: "fast", StorageSize: "20Gi", LogLevel: "debug",
			},
			values: map[string]any{
				"image":            map[string]any{"repository": "registry.example/team/ark", "tag": "v1"},
				"imagePullSecrets": []any{map[string]any{"name": "registry"}}, "watchNamespaces": []any{"a", "b"},
				"persistence": map[string]any{"storageClass": "fast", "size": "20Gi", "storeSize": "16Gi"}, "log": map[string]any{"level": "debug"},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			objects, err := install.Objects(c.settings)
			require.NoError(t, err)
			got := map[string]string{}
			for _, o := range objects {
				got[id(o)] = normal(t, o)
			}
			crds, operator, err := render.Release{
				Chart: chartDir, Namespace: c.settings.Namespace, Values: set(c.values, "namespace.create", true),
			}.Manifests()
			require.NoError(t, err)
			want := map[string]string{}
			for doc := range strings.SplitSeq("\n"+string(crds)+"---\n"+string(operator), "\n---\n") {
				o := &unstructured.Unstructured{}
				require.NoError(t, yaml.Unmarshal([]byte(doc), &o.Object))
				want[id(o)] = normal(t, o)
			}
			require.Equal(t, want, got)
		})
	}
}

func id(o *unstructured.Unstructured) string {
	return o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
}

// normal is an object's text with its variables in the order of their names, which has no meaning.
func normal(t *testing.T, o *unstructured.Unstructured) string {
	t.Helper()
	text, err := yaml.Marshal(sorted(o.Object))
	require.NoError(t, err)
	return string(text)
}

func sorted(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, inner := range v {
			out[k] = sorted(inner)
			if list, ok := inner.([]any); ok && k == "env" {
				slices.SortFunc(list, func(a, b any) int {
					return strings.Compare(a.(map[string]any)["name"].(string), b.(map[string]any)["name"].(string))
				})
				out[k] = list
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = sorted(v[i])
		}
		return out
	}
	return v
}
