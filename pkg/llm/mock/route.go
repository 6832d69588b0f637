package mock

import (
	"strings"
	"unicode"

	"arkonis.dev/ark/pkg/task"
)

// route names the capability whose words a request shares most: words of the id and the tags count three times those
// of the description, and the first of equals wins. A prompt that lists the capabilities itself is read without them.
func route(prompt string, caps []task.Capability) string {
	asked := words(prompt)
	if listed(prompt, caps) {
		for _, c := range caps {
			quoted := c.ID + " " + c.Description
			if tags := strings.Join(c.Tags, ", "); strings.Contains(prompt, tags) {
				quoted += " " + tags
			}
			for w, n := range words(quoted) {
				asked[w] -= n
			}
		}
	}
	best, bestScore := caps[0].ID, 0
	for _, c := range caps {
		score := 3*shared(asked, c.ID+" "+strings.Join(c.Tags, " ")) + shared(asked, c.Description)
		if score > bestScore {
			best, bestScore = c.ID, score
		}
	}
	return best
}

// listed says whether a prompt quotes all capabilities with their descriptions.
func listed(prompt string, caps []task.Capability) bool {
	described := false
	for _, c := range caps {
		if !strings.Contains(prompt, c.ID) || !strings.Contains(prompt, c.Description) {
			return false
		}
		described = described || c.Description != ""
	}
	return described
}

func shared(asked map[string]int, text string) int {
	n := 0
	for w := range words(text) {
		if asked[w] > 0 {
			n++
		}
	}
	return n
}

// words counts the words of a text: lower case, three letters or more, without a plural's s.
func words(text string) map[string]int {
	out := map[string]int{}
	for _, w := range strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		if len(w) > 3 {
			w = strings.TrimSuffix(w, "s")
		}
		if len(w) >= 3 {
			out[w]++
		}
	}
	return out
}
