// Package controlplane runs Kubernetes' control plane as processes: etcd, kube-apiserver, kube-controller-manager and,
// where there are nodes, kube-scheduler. It needs no privileges and no network but the address that it listens on. What
// it stores is made to be thrown away: etcd does not wait for the disk.
package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"arkonis.dev/ark/e2e/cluster/pki"
	"arkonis.dev/ark/e2e/cluster/process"
)

// LongestDir is how long a path may be below which a control plane keeps its state: Unix sockets lie there, and their
// paths end at 107 bytes.
const LongestDir = 107 - len("/state/etcd.sock")

// Config says where a control plane lives.
type Config struct {
	Kube   string // the folder of build.Kube
	Dir    string // certificates, kubeconfigs, etcd's data; a short path, since it holds Unix sockets
	Logs   string // a log file for each process, and audit.log
	Listen string // the IP address that the API server listens on
	Port   int
	Server string   // the API server's URL in kubeconfigs; "" is https://Listen:Port
	Hosts  []string // further names and addresses that its certificate is good for

	// Nodes is set where there are nodes. Without them nothing is scheduled, and Services of type ExternalName are
	// what leads the API server to extension servers; with them it goes to the Services' endpoints.
	Nodes *Nodes
}

// Nodes says how the network of the nodes is laid out.
type Nodes struct {
	Advertise string        // the address at which pods reach the API server
	Pods      string        // all nodes' pod addresses, a CIDR
	Grace     time.Duration // without a sign of life for so long a node counts as lost
}

// Services is the range of the addresses of Services. The first of them leads to the API server, if there are nodes.
const (
	Services   = "10.96.0.0/16"
	apiService = "10.96.0.1"
)

// A Plane is a running control plane. Its methods may be called from several goroutines.
type Plane struct {
	config Config
	ca     *pki.Authority
	client *http.Client

	mu        sync.Mutex
	server    *process.Process // kube-apiserver
	processes []*process.Process
}

// Start starts the control plane and returns once the API server is ready. The controllers start up behind it: a new
// namespace gets its ServiceAccount "default" after some seconds.
func Start(ctx context.Context, config Config) (_ *Plane, err error) {
	if config.Server == "" {
		config.Server = "https://" + net.JoinHostPort(config.Listen, strconv.Itoa(config.Port))
	}
	p := &Plane{config: config}
	if err := p.prepare(time.Now()); err != nil {
		return nil, fmt.Errorf("start a control plane: %w", err)
	}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if err := p.run("etcd", p.etcdFlags()); err != nil {
		return nil, err
	}
	if err := p.Restart(ctx); err != nil {
		return nil, err
	}
	if err := p.run("kube-controller-manager", p.controllerManagerFlags()); err != nil {
		return nil, err
	}
	if config.Nodes != nil {
		if err := p.run("kube-scheduler", p.schedulerFlags()); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// prepare writes what the processes read.
func (p *Plane) prepare(now time.Time) error {
	for _, dir := range []string{p.config.Dir, p.config.Logs} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := p.certificates(now); err != nil {
		return err
	}
	if err := os.WriteFile(p.file("audit-policy.yaml"), []byte(auditPolicy), 0o600); err != nil {
		return err
	}
	for name, user := range map[string]string{
		Admin:                     "ark-e2e-admin",
		"kube-controller-manager": "system:kube-controller-manager",
		"kube-scheduler":          "system:kube-scheduler",
		"kube-proxy":              "system:kube-proxy",
	} {
		subject := pki.Subject{Name: user}
		if name == Admin {
			subject.Groups = []string{"system:masters"}
		}
		if _, err := p.WriteKubeconfig(name, subject); err != nil {
			return err
		}
	}
	return nil
}

// Admin is the name of the kubeconfig that may do everything.
const Admin = "admin"

// Kubeconfig returns the path of a kubeconfig that was written under a name.
func (p *Plane) Kubeconfig(name string) string { return p.file(name + ".kubeconfig") }

// WriteKubeconfig makes a client certificate for a user and writes a kubeconfig with it. It returns the path.
func (p *Plane) WriteKubeconfig(name string, user pki.Subject) (string, error) {
	pair, err := p.Issue(user)
	if err != nil {
		return "", err
	}
	text, err := pki.Kubeconfig(p.config.Server, p.ca.PEM, pair)
	if err != nil {
		return "", err
	}
	return p.Kubeconfig(name), os.WriteFile(p.Kubeconfig(name), text, 0o600)
}

// Issue signs a certificate that the API server knows the subject by.
func (p *Plane) Issue(subject pki.Subject) (pki.Pair, error) { return p.ca.Issue(subject, time.Now()) }

// Authority returns the certificate, PEM, that the API server's own is signed by.
func (p *Plane) Authority() []byte { return p.ca.PEM }

// AuthorityFile returns the path of the file with Authority.
func (p *Plane) AuthorityFile() string { return p.file("ca.crt") }

// AuditLog returns the path of the API server's audit log.
func (p *Plane) AuditLog() string { return filepath.Join(p.config.Logs, "audit.log") }

// URL returns where the API server is.
func (p *Plane) URL() string { return p.config.Server }

func (p *Plane) file(name string) string { return filepath.Join(p.config.Dir, name) }

func (p *Plane) start(name string, flags []string) (*process.Process, error) {
	cmd := exec.Command(filepath.Join(p.config.Kube, name), flags...)
	cmd.Dir = p.config.Dir
	return process.Start(name, cmd, filepath.Join(p.config.Logs, name+".log"))
}

func (p *Plane) run(name string, flags []string) error {
	started, err := p.start(name, flags)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.processes = append(p.processes, started)
	return nil
}

// Kill ends the API server with SIGKILL, if it runs. What it stored stays.
func (p *Plane) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		return nil
	}
	err := p.server.Kill()
	p.server = nil
	return err
}

// Restart starts the API server, after Kill if it runs, and returns once it is ready.
func (p *Plane) Restart(ctx context.Context) error {
	if err := p.Kill(); err != nil {
		return err
	}
	for starts := 1; ; starts++ {
		server, err := p.start("kube-apiserver", p.serverFlags())
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.server = server
		p.mu.Unlock()
		err = p.awaitReady(ctx, server)
		// One whose first steps take longer than it allows them, on a busy machine, ends by itself.
		if err == nil || server.Err() == nil || starts == maxStarts {
			return err
		}
	}
}

// maxStarts is how often an API server is started that ends before it is ready.
const maxStarts = 3

// awaitReady asks the API server until it says that it is ready, which it signals in no other way.
func (p *Plane) awaitReady(ctx context.Context, server *process.Process) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for {
		said := p.ready(ctx)
		if said == nil {
			return nil
		}
		select {
		case <-server.Done():
			return server.Err()
		case <-ctx.Done():
			return fmt.Errorf("wait for kube-apiserver: %w; it says: %w; see %s", ctx.Err(), said, p.config.Logs)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (p *Plane) ready(ctx context.Context) error {
	_, err := p.Get(ctx, "/readyz")
	return err
}

// Get reads a path of the API as administrator; an answer other than 200 is an error.
func (p *Plane) Get(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.config.Server+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := p.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, response.Status, body)
	}
	return body, err
}

// Close ends all processes and returns when they are gone.
func (p *Plane) Close() {
	_ = p.Kill()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range slices.Backward(p.processes) { // etcd last
		_ = v.Kill()
	}
	if p.client != nil {
		p.client.CloseIdleConnections()
	}
}

func newClient(authority []byte, pair pki.Pair) (*http.Client, error) {
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	return &http.Client{
		Timeout:   time.Minute,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}},
	}, nil
}
