package modelserver

import (
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// writer writes the reply to one call and notes how far it came.
type writer struct {
	w      http.ResponseWriter
	r      *http.Request
	proto  protocol
	status int
	fault  string
	whole  bool
}

func (o *writer) reply(req Request, r Reply) {
	o.fault = r.Fault
	o.pause(r.Delay)
	if r.RetryAfter != "" {
		o.w.Header().Set("Retry-After", r.RetryAfter)
	}
	switch {
	case r.Fault == FaultHeaders:
		o.endlessHeaders()
	case r.Fault == FaultHuge, r.Fault == FaultLine:
		o.endlessBody(r)
	case r.Fault == FaultBomb:
		o.bomb(r)
	case r.Status/100 == 3:
		o.w.Header().Set("Location", r.Location)
		o.head(r.Status, "text/plain")
		o.whole = true
	case r.Body != "":
		o.send([]string{r.Body}, r, or(r.ContentType, "text/event-stream"))
	case r.Status >= 400:
		o.send([]string{o.proto.failure(r)}, r, or(r.ContentType, "application/json"))
	case req.Stream && !r.Plain:
		o.send(o.proto.streamed(req, r), r, "text/event-stream")
	default:
		o.send([]string{o.proto.plain(req, r)}, r, "application/json")
	}
}

// pause waits. When the client goes or the server ends first, the call breaks: a handler that merely returned would
// end the answer as if it were whole.
func (o *writer) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-o.r.Context().Done():
		panic(http.ErrAbortHandler)
	}
}

func (o *writer) head(status int, contentType string) {
	if status == 0 {
		status = http.StatusOK
	}
	o.w.Header().Set("Content-Type", contentType)
	o.w.WriteHeader(status)
	o.status = status
}

// send writes the parts of a body, up to the fault if there is one.
func (o *writer) send(parts []string, r Reply, contentType string) {
	strikes := r.Fault == FaultReset || r.Fault == FaultHang || r.Fault == FaultCut || r.Fault == FaultEnd
	if strikes && r.After == 0 && r.Fault != FaultEnd {
		o.strike(r.Fault)
		return
	}
	o.head(r.Status, contentType)
	left := r.After
	for i, p := range parts {
		if i > 0 {
			o.pause(r.ChunkDelay)
		}
		if strikes && len(p) >= left {
			_, _ = io.WriteString(o.w, p[:left])
			o.flush()
			o.strike(r.Fault)
			return
		}
		left -= len(p)
		if _, err := io.WriteString(o.w, p); err != nil {
			return
		}
		if r.ChunkDelay > 0 {
			o.flush()
		}
	}
	o.whole = o.flush() && o.r.Context().Err() == nil
}

func (o *writer) flush() bool { return http.NewResponseController(o.w).Flush() == nil }

func (o *writer) strike(fault string) {
	switch fault {
	case FaultHang:
		<-o.r.Context().Done()
		panic(http.ErrAbortHandler)
	case FaultReset:
		if conn := o.hijack(); conn != nil {
			if tcp, ok := conn.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // close sends a reset
			}
			_ = conn.Close()
		}
	case FaultCut:
		panic(http.ErrAbortHandler)
	}
}

func (o *writer) hijack() net.Conn {
	conn, _, err := http.NewResponseController(o.w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // no reset, but a broken connection
	}
	return conn
}

func (o *writer) endlessHeaders() {
	conn := o.hijack()
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"); err != nil {
		return
	}
	line := strings.Repeat("x", 1000)
	for i := 0; o.r.Context().Err() == nil; i++ {
		if _, err := fmt.Fprintf(conn, "X-%d: %s\r\n", i, line); err != nil {
			return
		}
	}
}

const gibibyte = 1 << 30

func size(r Reply) int64 {
	if r.Size > 0 {
		return r.Size
	}
	return gibibyte
}

func (o *writer) endlessBody(r Reply) {
	o.head(r.Status, "text/event-stream")
	chunk := o.proto.endless(strings.Repeat("x", 4000))
	if o.proto.opening != "" {
		_, _ = io.WriteString(o.w, o.proto.opening)
	}
	if r.Fault == FaultLine {
		_, _ = io.WriteString(o.w, o.proto.line)
		chunk = strings.Repeat("x", 32<<10)
	}
	for left := size(r); left > 0; left -= int64(len(chunk)) {
		if _, err := io.WriteString(o.w, chunk); err != nil {
			return
		}
	}
}

func (o *writer) bomb(r Reply) {
	o.w.Header().Set("Content-Encoding", "gzip")
	o.head(r.Status, "text/event-stream")
	z := gzip.NewWriter(o.w)
	spaces := make([]byte, 64<<10)
	for i := range spaces {
		spaces[i] = '\n'
	}
	for left := size(r); left > 0; left -= int64(len(spaces)) {
		if _, err := z.Write(spaces); err != nil {
			return
		}
	}
	_ = z.Close()
}
