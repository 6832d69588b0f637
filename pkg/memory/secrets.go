package memory

import (
	"net/url"
	"slices"
	"strings"

	"arkonis.dev/ark/pkg/chars"
)

const (
	hidden = "[hidden]"
	// shortestSecret is the length from which a value counts as a secret: shorter ones stand everywhere.
	shortestSecret = 5
	// maxMessage bounds what an error says, in bytes.
	maxMessage = 500
)

// secrets are texts that no error may show.
type secrets []string

func (s *secrets) add(values ...string) {
	for _, v := range values {
		if v = strings.TrimSpace(v); len(v) >= shortestSecret && !slices.Contains(*s, v) {
			*s = append(*s, v)
		}
	}
	// One may hold another.
	slices.SortFunc(*s, func(a, b string) int { return len(b) - len(a) })
}

func (s *secrets) addURL(u *url.URL) {
	if password, ok := u.User.Password(); ok {
		s.add(password, url.QueryEscape(password), url.PathEscape(password), u.User.String())
	}
	for name, values := range u.Query() {
		switch strings.ToLower(name) {
		case "password", "passfile", "sslpassword", "sslkey", "api-key", "api_key", "apikey", "token":
			s.add(values...)
		}
	}
}

func (s secrets) hide(text string) string {
	for _, v := range s {
		text = strings.ReplaceAll(text, v, hidden)
	}
	return text
}

// sentence is an error on one line, of bounded length and without secrets.
func (s secrets) sentence(err error) string {
	text := strings.Join(strings.Fields(strings.ToValidUTF8(s.hide(err.Error()), "?")), " ")
	if len(text) <= maxMessage {
		return text
	}
	return chars.Head(text, maxMessage) + "..."
}
