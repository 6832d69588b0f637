package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// bomFile is the name of a platform's bill of materials, beside the archive.
func bomFile(archive string, p v1.Platform) string {
	return strings.TrimSuffix(archive, ".tar") + "-" + p.OS + "-" + p.Architecture + ".cdx.json"
}

// writeBOM lists, in CycloneDX's form, the modules that are linked into an executable, as the executable itself tells
// them. There is no time and no random number in it.
func writeBOM(file string, binary []byte, version string) error {
	info, err := buildinfo.Read(bytes.NewReader(binary))
	if err != nil {
		return fmt.Errorf("read the modules of the executable: %w", err)
	}
	var out bytes.Buffer
	if err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom(info, binary, version)); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.WriteFile(file, out.Bytes(), 0o644)
}

func bom(info *debug.BuildInfo, binary []byte, version string) *cdx.BOM {
	sum := sha256.Sum256(binary)
	main := purl(info.Main.Path, version)
	goRelease := strings.TrimPrefix(info.GoVersion, "go")
	components := []cdx.Component{{
		Type: cdx.ComponentTypeLibrary, BOMRef: purl("stdlib", goRelease), Name: "stdlib", Version: goRelease, PackageURL: purl("stdlib", goRelease),
	}}
	linked := []string{purl("stdlib", goRelease)}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		ref := purl(m.Path, m.Version)
		linked = append(linked, ref)
		components = append(components, cdx.Component{
			Type: cdx.ComponentTypeLibrary, BOMRef: ref, Name: m.Path, Version: m.Version, PackageURL: ref,
		})
	}
	out := cdx.NewBOM()
	out.SerialNumber = serial(sum)
	out.Metadata = &cdx.Metadata{Component: &cdx.Component{
		Type: cdx.ComponentTypeApplication, BOMRef: main, Name: info.Main.Path, Version: version, PackageURL: main,
		Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}},
	}}
	out.Components = &components
	out.Dependencies = &[]cdx.Dependency{{Ref: main, Dependencies: &linked}}
	return out
}

func purl(path, version string) string { return "pkg:golang/" + path + "@" + version }

// serial is the executable's hash in the form of a UUID (version 8: its bits are the maker's).
func serial(sum [sha256.Size]byte) string {
	id := sum[:16]
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	h := hex.EncodeToString(id)
	return "urn:uuid:" + strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}
