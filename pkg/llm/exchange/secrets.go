package exchange

import (
	"net/url"
	"regexp"
	"slices"
	"strings"

	"arkonis.dev/ark/pkg/chars"
)

// excerptLimit bounds what an error quotes of a server's answer, in bytes.
const excerptLimit = 300

// secrets are the texts that no error may show.
type secrets []string

func newSecrets(c Config, u *url.URL) secrets {
	var s secrets
	add := func(v string) {
		// Shorter ones are no secrets, and would tear holes into every sentence.
		if len(v) >= 6 {
			s = append(s, v)
		}
	}
	add(c.APIKey)
	for _, v := range c.Headers {
		add(v)
		add(strings.TrimSpace(strings.TrimPrefix(v, "Bearer ")))
	}
	if pw, ok := u.User.Password(); ok {
		add(pw)
	}
	if u.User != nil {
		add(u.User.Username())
	}
	for _, vs := range u.Query() {
		for _, v := range vs {
			add(v)
		}
	}
	slices.SortFunc(s, func(a, b string) int { return len(b) - len(a) })
	return slices.Compact(s)
}

// keyLike finds keys that a server quotes in part, as OpenAI does with a wrong one.
var keyLike = regexp.MustCompile(`\b(sk|pk|rk|gsk|xai)-[A-Za-z0-9_*-]{6,}`)

// hide takes the secrets out of a text.
func (s secrets) hide(text string) string {
	for _, v := range s {
		text = strings.ReplaceAll(text, v, "[hidden]")
	}
	return keyLike.ReplaceAllString(text, "[hidden]")
}

// Excerpt is a bounded, one-line, printable part of what a server wrote, without secrets.
func (s *Server) Excerpt(text string) string { return s.secrets.excerpt(text) }

// excerpt is a bounded, one-line, printable part of a text, without secrets.
func (s secrets) excerpt(text string) string {
	const work = 4 << 10 // enough for the excerpt and a secret that would straddle its end
	if len(text) > work {
		text = text[:work]
	}
	text = s.hide(strings.ToValidUTF8(text, "?"))
	text = strings.Join(strings.Fields(strings.Map(printable, text)), " ")
	if len(text) <= excerptLimit {
		return text
	}
	return chars.Head(text, excerptLimit) + "..."
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}

// publicURL is a base URL as people may see it: no user, no query.
func publicURL(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
