package exchange

import "strings"

// Gather puts a text together from its pieces and copies each byte of a large text once: the pieces of a text that has
// become longer than a block are joined only when it is read. The zero Gather is empty and ready. It is used by one
// goroutine.
type Gather struct {
	blocks []string // whole ones, in order
	last   strings.Builder
	size   int
}

const (
	blockSize = 1 << 20  // bytes, after which a block is whole
	ownBlock  = 64 << 10 // bytes from which a piece is a block of its own
)

// Add adds a piece at the end.
func (g *Gather) Add(piece string) {
	g.size += len(piece)
	if len(piece) >= ownBlock {
		g.endBlock()
		g.blocks = append(g.blocks, piece)
		return
	}
	if len(g.blocks) > 0 && g.last.Len() == 0 {
		g.last.Grow(blockSize + ownBlock)
	}
	g.last.WriteString(piece)
	if g.last.Len() >= blockSize {
		g.endBlock()
	}
}

func (g *Gather) endBlock() {
	if g.last.Len() > 0 {
		g.blocks = append(g.blocks, g.last.String())
		g.last = strings.Builder{}
	}
}

// Len is the size of the text in bytes.
func (g *Gather) Len() int { return g.size }

// String is the text so far.
func (g *Gather) String() string {
	if len(g.blocks) == 0 {
		return g.last.String()
	}
	g.endBlock()
	if len(g.blocks) > 1 {
		g.blocks = []string{strings.Join(g.blocks, "")}
	}
	return g.blocks[0]
}
