package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/x509"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"encoding/pem"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/stretchr/testify/require"
)

const (
	testName    = "registry.example/team/ark:v1.2.3"
	testVersion = "v1.2.3"
)

// once is the image for two platforms, built the way that people build it, for all tests that need it.
var once struct {
	sync.Once
	dir string
	err error
}

func builtArchive() (string, error) {
	once.Do(func() {
		if once.dir, once.err = os.MkdirTemp("", "ark-image-test-"); once.err == nil {
			once.err = run(context.Background(), buildArgs(filepath.Join(once.dir, "ark-image.tar")), io.Discard)
		}
	})
	return filepath.Join(once.dir, "ark-image.tar"), once.err
}

func buildArgs(archive string) []string {
	return []string{"build", "-version", testVersion, "-name", testName, "-platforms", "linux/amd64,linux/arm64", "-o", archive}
}

func TestMain(m *testing.M) {
	code := m.Run()
	os.RemoveAll(once.dir)
	os.Exit(code)
}

func built(t *testing.T) (archive string, index v1.ImageIndex) {
	t.Helper()
	archive, err := builtArchive()
	require.NoError(t, err)
	dir := t.TempDir()
	in, err := os.Open(archive)
	require.NoError(t, err)
	defer in.Close()
	unpack(t, in, dir)
	outer, err := layout.ImageIndexFromPath(dir)
	require.NoError(t, err)
	manifest, err := outer.IndexManifest()
	require.NoError(t, err)
	require.Len(t, manifest.Manifests, 1)
	require.Equal(t, map[string]string{refAnnotation: "v1.2.3", nameAnnotation: testName}, manifest.Manifests[0].Annotations)
	index, err = outer.ImageIndex(manifest.Manifests[0].Digest)
	require.NoError(t, err)
	return archive, index
}

// unpack writes a tar stream below a folder and refuses what would leave it.
func unpack(t *testing.T, r io.Reader, dir string) {
	t.Helper()
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if err == io.EOF {
			return
		}
		require.NoError(t, err)
		require.True(t, filepath.IsLocal(h.Name), h.Name)
		file := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			require.NoError(t, os.MkdirAll(file, 0o755))
		} else {
			require.Equal(t, byte(tar.TypeReg), h.Typeflag, h.Name)
			body, err := io.ReadAll(in)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(file, body, 0o600))
		}
		require.NoError(t, os.Chmod(file, h.FileInfo().Mode()))
	}
}

func images(t *testing.T, index v1.ImageIndex) map[string]v1.Image {
	t.Helper()
	manifest, err := index.IndexManifest()
	require.NoError(t, err)
	all := map[string]v1.Image{}
	for _, d := range manifest.Manifests {
		img, err := index.Image(d.Digest)
		require.NoError(t, err)
		all[d.Platform.String()] = img
	}
	return all
}

func TestImageIsWholeAndSaysHowItRuns(t *testing.T) {
	t.Parallel()
	_, index := built(t)
	require.NoError(t, validate.Index(index))
	all := images(t, index)
	require.Len(t, all, 2)
	for platform, machine := range map[string]elf.Machine{"linux/amd64": elf.EM_X86_64, "linux/arm64": elf.EM_AARCH64} {
		img := all[platform]
		require.NotNil(t, img, platform)
		config, err := img.ConfigFile()
		require.NoError(t, err)
		require.Equal(t, platform, config.OS+"/"+config.Architecture)
		require.Equal(t, v1.Config{User: "65532:65532", Entrypoint: []string{"/ark"}, WorkingDir: "/", Labels: labels(testVersion)}, config.Config)
		manifest, err := img.Manifest()
		require.NoError(t, err)
		require.Equal(t, labels(testVersion), manifest.Annotations)

		dir := t.TempDir()
		unpack(t, mutate.Extract(img), dir)
		f, err := elf.Open(filepath.Join(dir, "ark"))
		require.NoError(t, err)
		require.Equal(t, machine, f.Machine)
		libraries, err := f.ImportedLibraries()
		require.NoError(t, err)
		require.Empty(t, libraries, "the executable is static")
		require.Nil(t, f.Section(".interp"), "the executable is static")
		require.NoError(t, f.Close())
	}
}

func TestInsideAreFourFilesAndNoShell(t *testing.T) {
	t.Parallel()
	_, index := built(t)
	for platform, img := range images(t, index) {
		modes := map[string]fs.FileMode{}
		content := map[string]string{}
		in := tar.NewReader(mutate.Extract(img))
		for {
			h, err := in.Next()
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
			require.Zero(t, h.Uid+h.Gid, h.Name)
			name := path.Clean(h.Name)
			modes[name] = h.FileInfo().Mode()
			if strings.HasPrefix(name, "etc/") && !h.FileInfo().IsDir() {
				body, err := io.ReadAll(in)
				require.NoError(t, err)
				content[name] = string(body)
			}
		}
		require.Equal(t, map[string]fs.FileMode{
			"ark": 0o755,
			"etc": fs.ModeDir | 0o755, "etc/group": 0o644, "etc/passwd": 0o644,
			"etc/ssl": fs.ModeDir | 0o755, "etc/ssl/certs": fs.ModeDir | 0o755, "etc/ssl/certs/ca-certificates.crt": 0o644,
			"tmp": fs.ModeDir | fs.ModeSticky | 0o777,
		}, modes, platform)
		require.Contains(t, content["etc/passwd"], "ark:x:65532:65532:")
		require.Contains(t, content["etc/group"], "ark:x:65532:")
		requireAuthorities(t, content["etc/ssl/certs/ca-certificates.crt"])
	}
}

func requireAuthorities(t *testing.T, text string) {
	t.Helper()
	found := 0
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		require.NoError(t, err)
		require.True(t, c.IsCA, c.Subject)
		found++
	}
	require.Empty(t, rest)
	require.Greater(t, found, 100)
}

// The executable runs with the image as its whole file system, as the image's user; without root only the executable
// of the image is run.
func TestExecutableInsideRuns(t *testing.T) {
	t.Parallel()
	_, index := built(t)
	img := images(t, index)["linux/"+runtime.GOARCH]
	if runtime.GOOS != "linux" || img == nil {
		t.Skip("the image has no executable for this machine")
	}
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	unpack(t, mutate.Extract(img), dir)
	ark := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "ark"), args...)
		if os.Geteuid() == 0 {
			cmd.Path = "/ark"
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
		}
		cmd.Dir, cmd.Env = "/", []string{}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := ark("version")
	require.NoError(t, err, out)
	require.Contains(t, out, "ark v1.2.3 (go")
	out, err = ark("runtime")
	require.Error(t, err)
	require.Contains(t, out, "MODEL")
	info, err := buildinfo.ReadFile(filepath.Join(dir, "ark"))
	require.NoError(t, err)
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	require.Equal(t, "timetzdata", settings["-tags"], "cron triggers name time zones, and the image has no files of them")
	require.Equal(t, "0", settings["CGO_ENABLED"])
}

func TestSameInputSameDigest(t *testing.T) {
	t.Parallel()
	archive, index := built(t)
	digest, err := index.Digest()
	require.NoError(t, err)
	again := filepath.Join(t.TempDir(), "ark-image.tar")
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), buildArgs(again), &out))
	require.Equal(t, testName+"@"+digest.String()+"\n", out.String())
	for _, suffix := range []string{".tar", "-linux-amd64.cdx.json", "-linux-arm64.cdx.json"} {
		first, err := os.ReadFile(strings.TrimSuffix(archive, ".tar") + suffix)
		require.NoError(t, err)
		second, err := os.ReadFile(strings.TrimSuffix(again, ".tar") + suffix)
		require.NoError(t, err)
		require.True(t, bytes.Equal(first, second), suffix)
	}
}

func TestBillOfMaterialsNamesWhatIsLinked(t *testing.T) {
	t.Parallel()
	archive, _ := built(t)
	text, err := os.ReadFile(bomFile(archive, v1.Platform{OS: "linux", Architecture: "amd64"}))
	require.NoError(t, err)
	var bom cdx.BOM
	require.NoError(t, json.Unmarshal(text, &bom))
	require.Equal(t, "arkonis.dev/ark", bom.Metadata.Component.Name)
	require.Equal(t, testVersion, bom.Metadata.Component.Version)
	versions := map[string]string{}
	for _, c := range *bom.Components {
		require.NotEmpty(t, c.Version, c.Name)
		require.Equal(t, "pkg:golang/"+c.Name+"@"+c.Version, c.PackageURL)
		versions[c.Name] = c.Version
	}
	require.Equal(t, strings.TrimPrefix(runtime.Version(), "go"), versions["stdlib"])
	for _, name := range []string{"github.com/nats-io/nats-server/v2", "github.com/spf13/cobra", "k8s.io/apimachinery"} {
		require.NotEmpty(t, versions[name], name)
	}
	require.Empty(t, versions["github.com/stretchr/testify"], "tests are not part of the image")
}

// What the Dockerfile copies is what the archive has.
func TestRootfsIsWhatTheImageHas(t *testing.T) {
	t.Parallel()
	_, index := built(t)
	fromImage := t.TempDir()
	unpack(t, mutate.Extract(images(t, index)["linux/amd64"]), fromImage)
	written := filepath.Join(t.TempDir(), "rootfs")
	require.NoError(t, run(t.Context(), []string{"rootfs", "-version", testVersion, "-platform", "linux/amd64", "-o", written}, io.Discard))
	require.Equal(t, tree(t, fromImage), tree(t, written))
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || file == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var body []byte
		if !d.IsDir() {
			if body, err = os.ReadFile(file); err != nil {
				return err
			}
		}
		name, err := filepath.Rel(dir, file)
		all[name] = info.Mode().String() + " " + string(body)
		return err
	}))
	return all
}

func TestWrongUseIsRefused(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"build or rootfs":          nil,
		"not something to do":      {"push"},
		"say where to write":       {"build"},
		"takes no arguments":       {"build", "-o", "x", "y"},
		"want linux/ARCH":          {"build", "-o", "x", "-platforms", "windows/amd64"},
		"named twice":              {"build", "-o", "x", "-platforms", "linux/amd64,linux/amd64"},
		"has no tag":               {"build", "-o", "x", "-name", "host:5000/ark"},
		"want linux/ARCH, such as": {"rootfs", "-o", "x", "-platform", "linux/arm/v7"},
	} {
		require.ErrorContains(t, run(t.Context(), args, io.Discard), want)
	}
}
