package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"time"
)

// KillNode pulls the plug of a node: all of its processes end at once, its link is gone, and what its containers wrote
// outside of volumes is lost. The API server notices after some 40 seconds.
func (c *Cluster) KillNode(ctx context.Context, node string) error {
	return c.commandNode(ctx, node, "kill")
}

// StartNode starts a killed node, empty but for the images that all nodes were given. It returns when these are there;
// the node is ready a little later.
func (c *Cluster) StartNode(ctx context.Context, node string) error {
	return c.commandNode(ctx, node, "start")
}

func (c *Cluster) commandNode(ctx context.Context, node, verb string) error {
	index, err := c.index(node)
	if err != nil {
		return err
	}
	if err := c.command(ctx, fmt.Sprintf("/nodes/%d/%s", index, verb)); err != nil {
		return fmt.Errorf("%s %s: %w", verb, node, err)
	}
	return nil
}

// LoadImage gives every node the images of an archive, which has to stay where it is for nodes that are started later.
func (c *Cluster) LoadImage(ctx context.Context, archive string) error {
	path, err := filepath.Abs(archive)
	if err != nil {
		return err
	}
	if err := c.command(ctx, "/images?archive="+url.QueryEscape(path)); err != nil {
		return fmt.Errorf("load image %s: %w", archive, err)
	}
	return nil
}

// command asks the host for something.
func (c *Cluster) command(ctx context.Context, path string) error {
	if c.dir == "" {
		return ErrGiven
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://host"+path, nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dialHost(ctx) },
	}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(string(said))
	}
	return err
}

func (c *Cluster) dialHost(ctx context.Context) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(c.dir, "control"))
}

// Dial connects to a TCP address inside the cluster: a pod's, a Service's or a node's, or a name that the cluster's DNS
// knows, with a port. It has the signature that http.Transport.DialContext wants.
func (c *Cluster) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if c.dir == "" {
		return nil, ErrGiven
	}
	if network != "tcp" && network != "tcp4" {
		return nil, fmt.Errorf("dial %s in the cluster: network %q is not tcp", address, network)
	}
	conn, err := c.dialHost(ctx)
	if err != nil {
		return nil, err
	}
	if err := tunnel(ctx, conn, address); err != nil {
		return nil, errors.Join(fmt.Errorf("dial %s in the cluster: %w", address, err), conn.Close())
	}
	return conn, nil
}

// tunnel makes a connection to the host one to address. The host says nothing on its own before the client does, or
// what lies behind: whatever comes after the answer stays in the connection, since the answer is read byte by byte.
func tunnel(ctx context.Context, conn net.Conn, address string) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", address, address); err != nil {
		return err
	}
	response, err := http.ReadResponse(bufio.NewReaderSize(byteReader{conn}, 16), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(response.Body)
		return fmt.Errorf("%s: %s", response.Status, said)
	}
	return nil
}

// byteReader hands out one byte at a time, so that a buffer above it takes no more than it needs.
type byteReader struct{ from io.Reader }

func (r byteReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return r.from.Read(p[:1])
}
