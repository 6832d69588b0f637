package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// serve answers what package cluster asks for, over HTTP on the socket "control" in the cluster's folder:
//
//	POST /nodes/INDEX/kill   pull the plug of a node
//	POST /nodes/INDEX/start  start a killed node, with nothing that it had
//	POST /images?archive=F   give every living node an image
//	CONNECT HOST:PORT        connect to an address as seen from the bridge; HOST may be a name of the cluster's DNS
func (c *cluster) serve(ctx context.Context) error {
	path := filepath.Join(c.dir, "control")
	_ = os.Remove(path) // of a cluster that was killed
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("listen for commands: %w; a shorter folder may help", err)
	}
	commands := http.NewServeMux()
	commands.HandleFunc("POST /nodes/{index}/{verb}", answer(c.commandNode))
	commands.HandleFunc("POST /images", answer(c.commandImage))
	server := http.Server{
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodConnect {
				connect(w, r)
				return
			}
			commands.ServeHTTP(w, r)
		}),
	}
	return server.Serve(listener)
}

func answer(command func(r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := command(r); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}
}

func (c *cluster) commandNode(r *http.Request) error {
	index, err := strconv.Atoi(r.PathValue("index"))
	if err != nil || index < 1 || index > c.nodes {
		return fmt.Errorf("no node %q", r.PathValue("index"))
	}
	switch verb := r.PathValue("verb"); verb {
	case "kill":
		return c.killNode(r.Context(), index)
	case "start":
		return c.startNode(r.Context(), index)
	default:
		return fmt.Errorf("unknown command %q", verb)
	}
}

// commandImage gives an image to the nodes that run, and to those that will be started.
func (c *cluster) commandImage(r *http.Request) error {
	archive := r.URL.Query().Get("archive")
	for _, m := range c.living() {
		if err := c.importImage(r.Context(), m, archive); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.images = append(c.images, archive)
	return nil
}

func (c *cluster) living() []member {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []member
	for i := range c.nodes {
		if _, ok := c.alive[i+1]; ok {
			all = append(all, memberOf(i+1))
		}
	}
	return all
}

// connect makes the HTTP connection one to r.Host.
func connect(w http.ResponseWriter, r *http.Request) {
	dialer := net.Dialer{Timeout: time.Minute, Resolver: &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(hub, "53"))
		},
	}}
	there, err := dialer.DialContext(r.Context(), "tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	here, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		there.Close()
		return
	}
	_, err = io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
	if err == nil { // what the client sent ahead
		_, err = io.CopyN(there, buffered, int64(buffered.Reader.Buffered()))
	}
	if err != nil {
		here.Close()
		there.Close()
		return
	}
	splice(here, there)
}

// forward leads every connection of a listener to an address, until the context ends.
func forward(ctx context.Context, listener net.Listener, address string) {
	context.AfterFunc(ctx, func() { listener.Close() })
	for {
		here, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		go func() {
			there, err := new(net.Dialer).DialContext(ctx, "tcp", address)
			if err != nil {
				here.Close()
				return
			}
			splice(here, there)
		}()
	}
}

// splice copies both ways until both ends are done.
func splice(a, b net.Conn) {
	done := make(chan struct{})
	go func() {
		pass(a, b)
		close(done)
	}()
	pass(b, a)
	<-done
	a.Close()
	b.Close()
}

func pass(to, from net.Conn) {
	_, err := io.Copy(to, from)
	half, ok := to.(interface{ CloseWrite() error })
	if err != nil || !ok || half.CloseWrite() != nil {
		to.Close()
	}
}
