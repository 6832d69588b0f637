package operator

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// slowEnds stands between an operator and its API server, and keeps the answers back that say that the end of a run is
// stored.
type slowEnds struct {
	stored  chan struct{} // gets one for each end that is stored
	release chan struct{} // closed when they may be answered
}

// throughSlowEnds has the world's operators reach the API server through one.
func (w *world) throughSlowEnds() *slowEnds {
	w.t.Helper()
	config, err := w.api.RESTFor(account(w.system), "system:serviceaccounts", "system:serviceaccounts:"+w.system)
	require.NoError(w.t, err)
	transport, err := rest.TransportFor(config)
	require.NoError(w.t, err)
	target, err := url.Parse(config.Host)
	require.NoError(w.t, err)
	s := &slowEnds{stored: make(chan struct{}, 16), release: make(chan struct{})}
	proxy := &httputil.ReverseProxy{
		Transport: transport, FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
	}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !isEnd(w.t, r) {
			proxy.ServeHTTP(rw, r)
			return
		}
		answer := httptest.NewRecorder()
		proxy.ServeHTTP(answer, r)
		if answer.Code == http.StatusOK {
			s.stored <- struct{}{}
			select {
			case <-s.release:
			case <-r.Context().Done():
				return
			}
		}
		maps.Copy(rw.Header(), answer.Header())
		rw.WriteHeader(answer.Code)
		_, _ = rw.Write(answer.Body.Bytes())
	}))
	w.t.Cleanup(server.Close)
	w.t.Cleanup(server.CloseClientConnections)
	c := clientcmdapi.NewConfig()
	c.Clusters["ark"] = &clientcmdapi.Cluster{Server: server.URL}
	c.Contexts["ark"] = &clientcmdapi.Context{Cluster: "ark"}
	c.CurrentContext = "ark"
	w.config = filepath.Join(w.t.TempDir(), "kubeconfig")
	require.NoError(w.t, clientcmd.WriteToFile(*c, w.config))
	return s
}

// isEnd says whether a request writes the end of a run.
func isEnd(t *testing.T, r *http.Request) bool {
	t.Helper()
	if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/arkruns/") || !strings.HasSuffix(r.URL.Path, "/status") {
		return false
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var run v1alpha1.ArkRun
	return json.Unmarshal(body, &run) == nil && run.Status.Phase.Terminal()
}

// An operator is asked to end while it waits for the API server to say that the end of a run is stored. It waits for that:
// nobody else would tell of the run's end, and its trace would have no root.
func TestOperatorEndsWhileARunsEndIsStored(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	w := newWorld(t)
	w.env = r.env()
	ends := w.throughSlowEnds()
	o := w.start()
	w.apply(`
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: ant}
spec: {model: gpt-test, systemPrompt: You are an ant.}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: team}
spec:
  roles: [{name: a, arkAgent: ant}]
  pipeline: [{name: one, role: a, inputs: {prompt: go.}}]
`)
	run := w.fire("team", nil, "1")
	trace := until(w, w.clients.Runs(w.namespace), run, "a step that runs", func(r *v1alpha1.ArkRun) bool {
		return len(r.Status.Steps) == 1 && r.Status.Steps[0].StartTime != nil
	}).Status.TraceID
	_, err := w.clients.Runs(w.namespace).Patch(t.Context(), run, types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"`+v1alpha1.AnnotationCancel+`":"true"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	select {
	case <-ends.stored:
	case <-time.After(patience):
		require.FailNow(t, "the run does not end")
	}
	require.NoError(t, o.cmd.Process.Signal(syscall.SIGTERM))
	require.Eventually(t, func() bool { return strings.Contains(o.logs.String(), "controllers stop") }, patience, 5*time.Millisecond)
	close(ends.release)
	select {
	case <-o.done:
	case <-time.After(patience):
		require.FailNow(t, "the operator does not end")
	}
	require.Equal(t, v1alpha1.RunCancelled, w.ended(run).Status.Phase)
	names, roots, wrong := r.of(trace)
	require.Empty(t, wrong)
	require.Equal(t, 1, roots)
	require.Equal(t, 1, names["run"], names)
	require.Equal(t, 1, names["step"], names)
}
