package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/e2e/cluster/apiserver"
	"arkonis.dev/ark/pkg/trigger"
)

// The scripts run the commands that work with a cluster against a real API server with ark's kinds. Each has a
// namespace of its own, $NS, which is that of its kubeconfig, $KUBECONFIG. They know, besides testscript's own:
//
//	ark [CODE] ARGS     as in the other scripts
//	seed FILE           makes objects with the status that FILE gives them, as the controllers would; $GOOD and so on are
//	                    the names of the ArkEvents that ark trigger demo --id good makes
//	kubectl ARGS        runs kubectl
//	as USER [RULE...]   goes on as another user, who may what the rules say: VERB,VERB:GROUP:RESOURCE,RESOURCE
//	later ARGS -- ARGS  runs ark with the first arguments, and as soon as it has written something, kubectl with the
//	                    others; ark must exit with 0 then
func TestRemoteScripts(t *testing.T) {
	t.Parallel()
	ark := arkBinary(t)
	server := apiserver.Start(t)
	kubectl(t, server, "apply", "--server-side", "-f", "../crds")
	kubectl(t, server, "wait", "--for=condition=Established", "--timeout=60s", "-f", "../crds")
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/remote",
		UpdateScripts:      *update,
		RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			name := strings.TrimPrefix(filepath.Base(e.WorkDir), "script-")
			r := &remoteScript{server: server, namespace: name, user: filepath.Join(e.WorkDir, ".kubeconfig")}
			e.Values[scriptKey{}] = &script{ark: ark}
			e.Values[remoteKey{}] = r
			if err := r.useAdmin(); err != nil {
				return err
			}
			e.Setenv("NS", name)
			for _, id := range []string{"good", "failed", "slow", "refused"} { // names of the events of these triggers
				event, err := trigger.Manual(trigger.Request{Team: "demo", ID: id})
				if err != nil {
					return err
				}
				e.Setenv(strings.ToUpper(id), event.Name)
			}
			e.Setenv("KUBECONFIG", r.user)
			out, err := r.kubectl("create", "namespace", name).CombinedOutput()
			if err == nil { // pods need it
				out, err = r.kubectl("wait", "--for=create", "--timeout=60s", "serviceaccount/default").CombinedOutput()
			}
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ark":     cmdArk,
			"seed":    cmdSeed,
			"kubectl": cmdKubectl,
			"as":      cmdAs,
			"later":   cmdLater,
		},
	})
}

func kubectl(t *testing.T, server *apiserver.Server, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), server.Kubectl(), append([]string{"--kubeconfig", server.Kubeconfig()}, args...)...).CombinedOutput()
	require.NoError(t, err, string(out))
}

// remoteScript is what the commands of one script share.
type remoteScript struct {
	server    *apiserver.Server
	namespace string
	user      string // kubeconfig of who runs ark
}

type remoteKey struct{}

func remoteOf(ts *testscript.TestScript) *remoteScript {
	return ts.Value(remoteKey{}).(*remoteScript)
}

// kubectl runs kubectl as the administrator.
func (r *remoteScript) kubectl(args ...string) *exec.Cmd {
	return exec.Command(r.server.Kubectl(), append([]string{"--kubeconfig", r.server.Kubeconfig(), "-n", r.namespace}, args...)...)
}

func (r *remoteScript) useAdmin() error {
	body, err := os.ReadFile(r.server.Kubeconfig())
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.user, body, 0o600); err != nil {
		return err
	}
	return r.inNamespace()
}

func (r *remoteScript) inNamespace() error {
	out, err := exec.Command(r.server.Kubectl(), "--kubeconfig", r.user, "config", "set-context", "--current", "--namespace", r.namespace).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func cmdSeed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: seed FILE")
	}
	r, file := remoteOf(ts), ts.MkAbs(args[0])
	ts.Check(os.WriteFile(file, []byte(os.Expand(ts.ReadFile(args[0]), ts.Getenv)), 0o600))
	for _, more := range [][]string{nil, {"--subresource=status"}} {
		out, err := r.kubectl(append([]string{"apply", "--server-side", "--force-conflicts", "-f", file}, more...)...).CombinedOutput()
		if err != nil {
			ts.Fatalf("seed %s: %v: %s", args[0], err, out)
		}
	}
}

func cmdKubectl(ts *testscript.TestScript, neg bool, args []string) {
	out, err := remoteOf(ts).kubectl(absolute(ts, args)...).CombinedOutput()
	_, _ = ts.Stdout().Write(out)
	if (err != nil) != neg {
		ts.Fatalf("kubectl: %v", err)
	}
}

// absolute finds the script's files whatever the folder that kubectl runs in.
func absolute(ts *testscript.TestScript, args []string) []string {
	out := slices.Clone(args)
	for i, a := range out {
		if strings.HasSuffix(a, ".yaml") {
			out[i] = ts.MkAbs(a)
		}
	}
	return out
}

func cmdAs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: as USER [VERB,VERB:GROUP:RESOURCE,RESOURCE...]")
	}
	r, user := remoteOf(ts), args[0]
	var rules strings.Builder
	for _, rule := range args[1:] {
		parts := strings.Split(rule, ":")
		if len(parts) != 3 {
			ts.Fatalf("not a rule: %s", rule)
		}
		fmt.Fprintf(&rules, "- {verbs: [%s], apiGroups: [%q], resources: [%s]}\n", parts[0], parts[1], parts[2])
	}
	role := fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: %[1]s}
%[2]s
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: %[1]s}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: %[3]s}]
`, user, orEmpty(rules.String()), user+"-"+r.namespace)
	file := ts.MkAbs(".role-" + user + ".yaml")
	ts.Check(os.WriteFile(file, []byte(role), 0o600))
	if out, err := r.kubectl("apply", "-f", file).CombinedOutput(); err != nil {
		ts.Fatalf("%v: %s", err, out)
	}
	ts.Check(r.use(user + "-" + r.namespace))
	if len(args) > 1 {
		parts := strings.Split(args[1], ":")
		verb, resource := strings.Split(parts[0], ",")[0], strings.Split(parts[2], ",")[0]
		ts.Check(r.allowed(verb, resource+"."+parts[1]))
	}
}

func orEmpty(rules string) string {
	if rules == "" {
		return "rules: []"
	}
	return "rules:\n" + rules
}

// use makes the kubeconfig that of another user.
func (r *remoteScript) use(user string) error {
	config, err := r.server.RESTFor(user)
	if err != nil {
		return err
	}
	dir := filepath.Dir(r.user)
	for name, body := range map[string][]byte{"ca": config.CAData, "cert": config.CertData, "key": config.KeyData} {
		if err := os.WriteFile(filepath.Join(dir, ".user-"+name), body, 0o600); err != nil {
			return err
		}
	}
	body := fmt.Sprintf(`
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, certificate-authority: .user-ca}}]
users: [{name: u, user: {client-certificate: .user-cert, client-key: .user-key}}]
contexts: [{name: x, context: {cluster: c, user: u, namespace: %s}}]
current-context: x
`, config.Host, r.namespace)
	return os.WriteFile(r.user, []byte(body), 0o600)
}

// allowed waits until the API server, which reads RBAC from a cache, lets the user do something.
func (r *remoteScript) allowed(verb, resource string) error {
	ctx, cancel := context.WithTimeout(context.Background(), hangs)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if exec.Command(r.server.Kubectl(), "--kubeconfig", r.user, "auth", "can-i", verb, resource).Run() == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s %s is still not allowed", verb, resource)
		}
	}
}

func cmdLater(ts *testscript.TestScript, neg bool, args []string) {
	i := -1
	for n, a := range args {
		if a == "--" {
			i = n
		}
	}
	if neg || i < 1 {
		ts.Fatalf("usage: later ARK-ARGS -- KUBECTL-ARGS")
	}
	ctx, cancel := context.WithTimeout(context.Background(), hangs)
	defer cancel()
	p := command(ctx, of(ts).ark, []string{"KUBECONFIG=" + remoteOf(ts).user}, args[:i]...)
	p.Dir = ts.MkAbs(".")
	ts.Check(p.Start())
	select {
	case <-p.spoke:
	case <-ctx.Done():
		ts.Fatalf("ark says nothing")
	}
	out, err := remoteOf(ts).kubectl(absolute(ts, args[i+1:])...).CombinedOutput()
	if err != nil {
		_ = p.Process.Kill()
		ts.Fatalf("kubectl: %v: %s", err, out)
	}
	err = p.Wait()
	_, _ = fmt.Fprint(ts.Stdout(), steady(p.out.String()))
	_, _ = fmt.Fprint(ts.Stderr(), steady(p.err.String()))
	if code := exitStatus(err); code != 0 {
		ts.Fatalf("ark exits with %d: %s", code, p.err.String())
	}
}
