package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// restConn speaks the plain form: POST <url>/tools/list, and POST <url>/tools/call with a name and arguments.
type restConn struct {
	life   *life
	base   *url.URL
	client *http.Client
}

func (c *restConn) list(ctx context.Context, cursor string) (page, error) {
	body := map[string]string{}
	if cursor != "" {
		body["cursor"] = cursor
	}
	x := &exchange{safe: true}
	answer, err := c.post(withExchange(ctx, x), "tools/list", body)
	if err != nil {
		return page{}, judge(x, err, c.life)
	}
	if answer = bytes.TrimSpace(answer); bytes.HasPrefix(answer, []byte("[")) {
		answer = append(append([]byte(`{"tools":`), answer...), '}')
	}
	var listed struct {
		page
		Tools *[]json.RawMessage `json:"tools"`
	}
	if err := json.Unmarshal(answer, &listed); err != nil {
		return page{}, refuse(false, "read the list of tools: %w", err)
	}
	if listed.Tools == nil {
		return page{}, refuse(false, "the answer holds no list of tools")
	}
	return page{Tools: *listed.Tools, Next: listed.Next}, nil
}

func (c *restConn) call(ctx context.Context, x *exchange, r request) (json.RawMessage, error) {
	answer, err := c.post(withExchange(ctx, x), "tools/call", struct {
		Name      string          `json:"name"`
		Arguments json.RawMessage `json:"arguments"`
	}{r.tool, r.args})
	if err != nil {
		return nil, judge(x, err, c.life)
	}
	return answer, nil
}

func (c *restConn) post(ctx context.Context, path string, body any) ([]byte, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("write the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.JoinPath(path).String(), bytes.NewReader(encoded))
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, fmt.Errorf("HTTP %d", resp.StatusCode)
	}
	return answer, nil
}

func (c *restConn) drains() bool { return true }

func (c *restConn) close() { c.life.wait() }
