package tools_test

import (
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/tools"
)

func TestGuard(t *testing.T) {
	t.Parallel()
	open, strict, local := tools.Guard{}, tools.Guard{DenyPrivate: true}, tools.Guard{AllowLinkLocal: true}
	for _, c := range []struct {
		addr                string
		open, strict, local string // the kind that is refused, empty: allowed
	}{
		{addr: "93.184.216.34"},
		{addr: "2606:2800:220:1::1"},
		{addr: "127.0.0.1", strict: "loopback"},
		{addr: "::1", strict: "loopback"},
		{addr: "0.0.0.0", strict: "loopback"},
		{addr: "::ffff:127.0.0.1", strict: "loopback"},
		{addr: "10.1.2.3", strict: "private"},
		{addr: "192.168.1.1", strict: "private"},
		{addr: "100.64.1.1", strict: "private"},
		{addr: "fd12::1", strict: "private"},
		{addr: "169.254.169.254", open: "link-local", strict: "link-local"},
		{addr: "::ffff:169.254.169.254", open: "link-local", strict: "link-local"},
		{addr: "64:ff9b::a9fe:a9fe", open: "link-local", strict: "link-local"},
		{addr: "2002:a9fe:a9fe::1", open: "link-local", strict: "link-local"},
		{addr: "::a9fe:a9fe", open: "link-local", strict: "link-local"},
		{addr: "fe80::1%eth0", open: "link-local", strict: "link-local"},
		{addr: "fd00:ec2::254", open: "metadata", strict: "metadata"},
		{addr: "100.100.100.200", open: "metadata", strict: "metadata"},
		{addr: "168.63.129.16", open: "metadata", strict: "metadata"},
		{addr: "224.0.0.1", open: "multicast", strict: "multicast", local: "multicast"},
		{addr: "255.255.255.255", open: "multicast", strict: "multicast", local: "multicast"},
	} {
		for _, g := range []struct {
			guard tools.Guard
			want  string
		}{{open, c.open}, {strict, c.strict}, {local, c.local}} {
			err := g.guard.Check(netip.MustParseAddr(c.addr))
			if g.want == "" {
				require.NoError(t, err, c.addr)
				continue
			}
			var refused *tools.AddressError
			require.ErrorAs(t, err, &refused, "%s %+v", c.addr, g.guard)
			require.Equal(t, g.want, refused.Kind, c.addr)
		}
	}
}

// A name that resolves to a refused address is caught when it is dialled, not when it is written.
func TestGuardSeesWhatIsDialled(t *testing.T) {
	t.Parallel()
	s, rec := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "reached") })
	byName := strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
	for _, url := range []string{s.URL, byName} {
		got, err := webhook(t, tools.WebhookConfig{Name: "hook", URL: url}, tools.Guard{DenyPrivate: true}).Call(t.Context(), call("{}"))
		require.NoError(t, err)
		require.True(t, got.IsError)
		require.Contains(t, got.Text, "is a loopback address, which tools may not connect to")
	}
	require.Empty(t, rec.all())
	got, err := webhook(t, tools.WebhookConfig{Name: "hook", URL: byName}, tools.Guard{}).Call(t.Context(), call("{}"))
	require.NoError(t, err)
	require.Equal(t, tools.Result{Text: "reached"}, got)
	got, err = webhook(t, tools.WebhookConfig{Name: "hook", URL: "http://169.254.169.254/latest/meta-data"}, tools.Guard{}).Call(t.Context(), call("{}"))
	require.NoError(t, err)
	require.Equal(t, tools.Result{IsError: true, Text: "hook: address 169.254.169.254 is a link-local address, which tools may not connect to"}, got)
}
