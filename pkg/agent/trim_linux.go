package agent

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
)

// trim gives back what only the start has needed: free heap, and the pages of the executable, most of which belong to
// other modes and to the set-up of libraries. What is used again is mapped again from the page cache, at the price of a
// fault. It is a help: an error means that the process stays as large as it is.
func trim() error {
	debug.FreeOSMemory()
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("read the memory map: %w", err)
	}
	defer func() { _ = maps.Close() }()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find the executable: %w", err)
	}
	var m mapping
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		switch fields := strings.Fields(lines.Text()); {
		case len(fields) >= 6 && !strings.HasSuffix(fields[0], ":"):
			m = mappingOf(fields, exe)
		case len(fields) == 3 && fields[0] == "Anonymous:" && fields[1] == "0" && m.clean:
			// Nothing in it was ever written, so that all of it is in the file.
			if _, _, failure := syscall.Syscall(syscall.SYS_MADVISE, m.start, m.size, syscall.MADV_DONTNEED); failure != 0 {
				return fmt.Errorf("give back pages of the executable: %w", failure)
			}
		}
	}
	return nil
}

// mapping is a part of the address space.
type mapping struct {
	start, size uintptr
	clean       bool // read-only, of the executable
}

// mappingOf reads the first line of a mapping in smaps: addresses, permissions, offset, device, inode, path.
func mappingOf(fields []string, exe string) mapping {
	from, to, _ := strings.Cut(fields[0], "-")
	start, err := strconv.ParseUint(from, 16, 64)
	if err != nil {
		return mapping{}
	}
	end, err := strconv.ParseUint(to, 16, 64)
	if err != nil || end < start {
		return mapping{}
	}
	clean := strings.HasPrefix(fields[1], "r-") && strings.Join(fields[5:], " ") == exe
	return mapping{start: uintptr(start), size: uintptr(end - start), clean: clean}
}
