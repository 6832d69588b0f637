// Package apiserver gives a test a Kubernetes API server of its own: etcd, kube-apiserver and
// kube-controller-manager (garbage collection, namespace deletion, workloads down to pods that nobody runs) on a free
// loopback port, up in a few seconds, without privileges and without nodes. Tests of controllers start here; what needs
// running pods takes a whole cluster (package cluster).
//
//	server := apiserver.Start(t)
//	client, err := kubernetes.NewForConfig(server.REST())
//
// The executables are built at the first use, which takes minutes; `make cluster-build` does it ahead.
package apiserver

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"arkonis.dev/ark/e2e/cluster/build"
	"arkonis.dev/ark/e2e/cluster/controlplane"
	"arkonis.dev/ark/e2e/cluster/pki"
)

// A Server is a running API server with its controllers. Its methods may be called from several goroutines.
//
// Extension servers: an APIService whose Service is of type ExternalName with externalName "localhost" is proxied to
// the APIService's port on the loopback address, so a test process can serve it. Webhooks take a URL with 127.0.0.1.
// How an extension server recognizes the API server is in the ConfigMap kube-system/extension-apiserver-authentication.
type Server struct {
	plane *controlplane.Plane
	port  *port
	dir   string
	kube  string
	admin pki.Pair
}

// Start starts an API server that ends with the test. When the test failed, its logs are kept and named.
func Start(t testing.TB) *Server {
	t.Helper()
	s, err := Launch(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("logs of the API server are kept in ", s.Logs())
			s.end()
			return
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Launch starts an API server that ends with Close, or with this process, however that ends. Progress of a build goes
// to log.
func Launch(ctx context.Context, log io.Writer) (_ *Server, err error) {
	kube, err := build.Kube(ctx, log)
	if err != nil {
		return nil, err
	}
	s := &Server{kube: kube}
	if s.dir, err = os.MkdirTemp("", "ark-api-"); err != nil {
		return nil, err
	}
	if len(s.dir) > controlplane.LongestDir {
		return nil, fmt.Errorf("the path %s is too long for the Unix sockets in it; set TMPDIR to a shorter one", s.dir)
	}
	if s.port, err = reservePort(); err != nil {
		return nil, fmt.Errorf("find a free port: %w", err)
	}
	s.plane, err = controlplane.Start(ctx, controlplane.Config{
		Kube: kube, Dir: filepath.Join(s.dir, "state"), Logs: s.Logs(), Listen: "127.0.0.1", Port: s.port.number,
	})
	if err != nil {
		s.port.release()
		return nil, err
	}
	if s.admin, err = s.plane.Issue(pki.Subject{Name: "ark-e2e-admin", Groups: []string{"system:masters"}}); err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

// REST returns a client configuration that may do everything and is not throttled.
func (s *Server) REST() *rest.Config { return s.config(s.admin) }

// RESTFor returns a client configuration for a user, to whom only what RBAC gives is allowed. A ServiceAccount's user
// name is "system:serviceaccount:NAMESPACE:NAME".
func (s *Server) RESTFor(user string, groups ...string) (*rest.Config, error) {
	pair, err := s.plane.Issue(pki.Subject{Name: user, Groups: groups})
	if err != nil {
		return nil, err
	}
	return s.config(pair), nil
}

func (s *Server) config(client pki.Pair) *rest.Config {
	return &rest.Config{
		Host:            s.plane.URL(),
		TLSClientConfig: rest.TLSClientConfig{CAData: s.plane.Authority(), CertData: client.Cert, KeyData: client.Key},
		QPS:             -1,
		Timeout:         time.Minute,
	}
}

// Kubeconfig returns the path of a kubeconfig that may do everything.
func (s *Server) Kubeconfig() string { return s.plane.Kubeconfig(controlplane.Admin) }

// Kubectl returns the path of kubectl.
func (s *Server) Kubectl() string { return filepath.Join(s.kube, "kubectl") }

// Logs returns the folder with a log file for each process.
func (s *Server) Logs() string { return filepath.Join(s.dir, "logs") }

// AuditLog returns the path of the audit log: one JSON object a line for each request, written before its answer.
func (s *Server) AuditLog() string { return s.plane.AuditLog() }

// Kill ends kube-apiserver with SIGKILL. Its port stays reserved: clients are refused until Restart.
func (s *Server) Kill() error { return s.plane.Kill() }

// Restart starts kube-apiserver with everything that it stored, after Kill if it runs, and returns when it is ready.
func (s *Server) Restart(ctx context.Context) error { return s.plane.Restart(ctx) }

// Close ends everything and removes it, logs included.
func (s *Server) Close() error {
	s.end()
	return os.RemoveAll(s.dir)
}

func (s *Server) end() {
	s.plane.Close()
	s.port.release()
}
