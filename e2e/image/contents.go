package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// The user that everything runs as; Kubernetes' runAsNonRoot wants a number.
const (
	userID = "65532"
	user   = userID + ":" + userID
	passwd = "root:x:0:0:root:/:/sbin/nologin\nark:x:" + userID + ":" + userID + ":ark:/tmp:/sbin/nologin\n"
	group  = "root:x:0:\nark:x:" + userID + ":\n"
)

// entry is a file or a folder of the image, owned by root.
type entry struct {
	path string // without a leading slash
	mode fs.FileMode
	body []byte
}

// contents is all that is inside the image, folders before what is in them.
//
// The certificate authorities are a file and not linked into the executable, for two reasons: with a file Go adds those
// of SSL_CERT_DIR, which is how an extra authority is given, whereas linked-in ones step back as soon as there is any
// other; and the executable, which is also copied into images of users, goes on trusting what those trust. The file is
// made from a Go module with a fixed version and not from the build machine, so that it is the same everywhere.
func contents(binary []byte) []entry {
	return []entry{
		{path: "ark", mode: 0o755, body: binary},
		{path: "etc", mode: fs.ModeDir | 0o755},
		{path: "etc/group", mode: 0o644, body: []byte(group)},
		{path: "etc/passwd", mode: 0o644, body: []byte(passwd)},
		{path: "etc/ssl", mode: fs.ModeDir | 0o755},
		{path: "etc/ssl/certs", mode: fs.ModeDir | 0o755},
		{path: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, body: authorities()},
		{path: "tmp", mode: fs.ModeDir | fs.ModeSticky | 0o777},
	}
}

// authorities is Mozilla's list in PEM, without those that are trusted only under a condition: a file cannot say it.
func authorities() []byte {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}))
		}
	}
	return out.Bytes()
}

// writeDir writes the entries below a folder, which is made when it is missing.
func writeDir(dir string, entries []entry) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write %s: %w", dir, err)
	}
	for _, e := range entries {
		file := filepath.Join(dir, filepath.FromSlash(e.path))
		var err error
		if e.mode.IsDir() {
			err = os.MkdirAll(file, 0o755)
		} else {
			err = os.WriteFile(file, e.body, e.mode.Perm())
		}
		if err == nil { // whatever the umask says
			err = os.Chmod(file, e.mode)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", dir, err)
		}
	}
	return nil
}

// packed is the entries as a tar file with nothing in it that differs from one build to the next.
func packed(entries []entry, at time.Time) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		h := &tar.Header{Format: tar.FormatPAX, Name: e.path, Mode: int64(e.mode.Perm()), ModTime: at, Typeflag: tar.TypeReg, Size: int64(len(e.body))}
		if e.mode.IsDir() {
			h.Typeflag, h.Name = tar.TypeDir, e.path+"/"
		}
		if e.mode&fs.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("pack %s: %w", e.path, err)
		}
		if _, err := w.Write(e.body); err != nil {
			return nil, fmt.Errorf("pack %s: %w", e.path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	return out.Bytes(), nil
}
