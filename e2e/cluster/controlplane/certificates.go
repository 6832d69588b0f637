package controlplane

import (
	"os"
	"time"

	"arkonis.dev/ark/e2e/cluster/pki"
)

// The client that the API server is to extension servers. They know it by an authority of its own, so that no other
// client of the cluster can speak for somebody else.
const frontProxy = "front-proxy-client"

// certificates makes both authorities, what they sign for the API server, the key that tokens are signed with, and the
// client that Get asks with.
func (p *Plane) certificates(now time.Time) (err error) {
	if p.ca, err = pki.NewAuthority("ark-e2e", now); err != nil {
		return err
	}
	front, err := pki.NewAuthority("ark-e2e-front-proxy", now)
	if err != nil {
		return err
	}
	hosts := append([]string{
		"localhost", "127.0.0.1", p.config.Listen, apiService,
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
	}, p.config.Hosts...)
	for _, c := range []struct {
		file    string
		signer  *pki.Authority
		subject pki.Subject
	}{
		{"apiserver", p.ca, pki.Subject{Name: "kube-apiserver", Hosts: hosts}},
		{"kubelet-client", p.ca, pki.Subject{Name: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}}},
		{"front-proxy", front, pki.Subject{Name: frontProxy}},
	} {
		pair, err := c.signer.Issue(c.subject, now)
		if err != nil {
			return err
		}
		if err := pair.Write(p.config.Dir, c.file); err != nil {
			return err
		}
		if c.file == "kubelet-client" { // may do everything, so it serves Get too
			if p.client, err = newClient(p.ca.PEM, pair); err != nil {
				return err
			}
		}
	}
	authority, err := p.ca.Pair()
	if err != nil {
		return err
	}
	if err := authority.Write(p.config.Dir, "ca"); err != nil {
		return err
	}
	if err := os.WriteFile(p.file("front-proxy-ca.crt"), front.PEM, 0o600); err != nil {
		return err
	}
	return p.tokenKey()
}

// tokenKey writes the key that ServiceAccounts' tokens are signed with.
func (p *Plane) tokenKey() error {
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	private, err := pki.PrivateKey(key)
	if err != nil {
		return err
	}
	public, err := pki.PublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := os.WriteFile(p.file("tokens.key"), private, 0o600); err != nil {
		return err
	}
	return os.WriteFile(p.file("tokens.pub"), public, 0o600)
}
