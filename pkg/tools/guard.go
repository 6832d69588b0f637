package tools

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"time"
)

// Guard says which addresses tools may connect to. It is asked about the address that is dialled, after name
// resolution, so that no name and no redirect leads around it. The zero Guard refuses link-local and metadata
// addresses, and allows loopback and private ones: an agent's tools usually run beside it.
type Guard struct {
	AllowLinkLocal bool // link-local and cloud metadata addresses, too
	DenyPrivate    bool // no RFC 1918, unique local, shared (100.64.0.0/10) or loopback addresses
}

// AddressError is a connection that the guard refused.
type AddressError struct {
	Addr netip.Addr
	Kind string // "link-local", "metadata", "private", "loopback", "multicast"
}

func (e *AddressError) Error() string {
	return fmt.Sprintf("address %s is a %s address, which tools may not connect to", e.Addr, e.Kind)
}

// metadata are the addresses of cloud metadata services that are not link-local.
var metadata = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd20:ce::254"),    // Google Cloud
	netip.MustParseAddr("100.100.100.200"), // Alibaba
	netip.MustParseAddr("168.63.129.16"),   // Azure
	netip.MustParseAddr("192.0.0.192"),     // Oracle
}

// embedded are the IPv6 networks that carry an IPv4 address, with the byte it starts at.
var embedded = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, // NAT64
	{netip.MustParsePrefix("2002::/16"), 2},     // 6to4
	{netip.MustParsePrefix("::/96"), 12},        // IPv4-compatible
}

var shared = netip.MustParsePrefix("100.64.0.0/10")

// Check says whether the address may be dialled.
func (g Guard) Check(addr netip.Addr) error {
	addr = plain(addr)
	if kind := g.refused(addr); kind != "" {
		return &AddressError{Addr: addr, Kind: kind}
	}
	return nil
}

func (g Guard) refused(addr netip.Addr) string {
	switch {
	case addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "multicast"
	case !g.AllowLinkLocal && addr.IsLinkLocalUnicast():
		return "link-local"
	case !g.AllowLinkLocal && isMetadata(addr):
		return "metadata"
	case g.DenyPrivate && (addr.IsLoopback() || addr.IsUnspecified()):
		return "loopback"
	case g.DenyPrivate && (addr.IsPrivate() || shared.Contains(addr)):
		return "private"
	default:
		return ""
	}
}

func isMetadata(addr netip.Addr) bool {
	return slices.Contains(metadata, addr)
}

// plain is the address that a packet ends up at, without its zone and the IPv6 clothes of an IPv4 address.
func plain(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if !addr.Is6() || addr.IsLoopback() || addr.IsUnspecified() {
		return addr
	}
	b := addr.As16()
	for _, e := range embedded {
		if e.prefix.Contains(addr) {
			return netip.AddrFrom4([4]byte(b[e.at : e.at+4]))
		}
	}
	return addr
}

// Network is how tools reach the network: a pool of connections behind a guard.
type Network struct {
	guard     Guard
	transport *http.Transport
}

const (
	dialTimeout    = 10 * time.Second
	idleTimeout    = 90 * time.Second
	idlePerHost    = 16
	maxHeaderBytes = 64 << 10
)

// NewNetwork makes a network. Proxy, which may be nil, finds the proxy of a request; behind a proxy the guard sees
// only the proxy's address and addresses that are written out in the URL.
func NewNetwork(guard Guard, proxy func(*http.Request) (*url.URL, error)) *Network {
	dialer := &net.Dialer{
		Timeout: dialTimeout,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("address %q cannot be checked: %w", address, err)
			}
			return guard.Check(to.Addr())
		},
	}
	return &Network{guard: guard, transport: &http.Transport{
		Proxy:                  proxy,
		DialContext:            dialer.DialContext,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    idlePerHost,
		IdleConnTimeout:        idleTimeout,
		TLSHandshakeTimeout:    dialTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
	}}
}

// WithTLS is a network behind the same guard, with connections of its own that are made with the given certificates.
func (n *Network) WithTLS(config *tls.Config) *Network {
	transport := n.transport.Clone()
	transport.TLSClientConfig = config
	return &Network{guard: n.guard, transport: transport}
}

// CheckRedirect lets an http.Client follow redirects on the same host only, and never from https to http.
func (n *Network) CheckRedirect(req *http.Request, via []*http.Request) error {
	return confined(req, via)
}

// Close closes idle connections.
func (n *Network) Close() { n.transport.CloseIdleConnections() }

// RoundTrip makes one request, without following redirects.
func (n *Network) RoundTrip(req *http.Request) (*http.Response, error) {
	if addr, err := netip.ParseAddr(req.URL.Hostname()); err == nil {
		if err := n.guard.Check(addr); err != nil {
			return nil, err
		}
	}
	return n.transport.RoundTrip(req)
}

const maxRedirects = 5

var errRedirect = errors.New("redirect refused")

// confined follows redirects on the same host only, and never from https to http.
func confined(req *http.Request, via []*http.Request) error {
	from := via[0].URL
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("%w: more than %d of them", errRedirect, maxRedirects)
	case req.URL.Scheme != from.Scheme && req.URL.Scheme != "https":
		return fmt.Errorf("%w: from %s to %s", errRedirect, from.Scheme, req.URL.Scheme)
	case req.URL.Hostname() != from.Hostname():
		return fmt.Errorf("%w: to another host (%s)", errRedirect, req.URL.Hostname())
	case port(req.URL) != port(from) && (req.URL.Port() != "" || from.Port() != ""):
		return fmt.Errorf("%w: to another port (%s)", errRedirect, port(req.URL))
	default:
		return nil
	}
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}
