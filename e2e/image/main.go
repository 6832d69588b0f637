// Command image builds ark's container image without a container daemon.
//
//	image build  -version V -name NAME -platforms linux/amd64,linux/arm64 -o dist/ark-image.tar
//	image rootfs -version V -platform linux/amd64 -o DIR
//
// build writes an OCI archive, which `ctr images import`, `podman load` and `skopeo copy oci-archive:` read, and beside
// it a CycloneDX bill of materials for each platform. It prints the image's digest. The same sources, version and Go
// release give the same digest, on any machine.
//
// rootfs writes what is inside the image into a folder: the Dockerfile copies it, so that both ways make one image.
//
// The command stands in a module of its own, so that ark's go.mod stays free of what only builds images. It runs in
// its own folder and compiles the ark that stands two folders above.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("say what to do: build or rootfs")
	}
	fl := flag.NewFlagSet("image "+args[0], flag.ContinueOnError)
	src := fl.String("source", filepath.Join("..", ".."), "the root of ark's sources")
	version := fl.String("version", "dev", "ark's version")
	to := fl.String("o", "", "the archive (build) or the folder (rootfs) to write")
	switch args[0] {
	case "build":
		name := fl.String("name", "arkonis.dev/ark:dev", "the image's name, with its tag")
		list := fl.String("platforms", "linux/amd64,linux/arm64", "OS/ARCH, separated by commas")
		if err := parse(fl, args[1:], to); err != nil {
			return err
		}
		platforms, err := parsePlatforms(*list)
		if err != nil {
			return err
		}
		digest, err := build(ctx, source{dir: *src, version: *version}, *name, platforms, *to)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%s@%s\n", *name, digest)
		return err
	case "rootfs":
		one := fl.String("platform", "linux/amd64", "OS/ARCH")
		if err := parse(fl, args[1:], to); err != nil {
			return err
		}
		p, err := parsePlatform(*one)
		if err != nil {
			return err
		}
		binary, err := source{dir: *src, version: *version}.compile(ctx, p)
		if err != nil {
			return err
		}
		return writeDir(*to, contents(binary))
	}
	return fmt.Errorf("%q is not something to do: build or rootfs", args[0])
}

func parse(fl *flag.FlagSet, args []string, to *string) error {
	switch err := fl.Parse(args); {
	case err != nil:
		return err
	case fl.NArg() > 0:
		return fmt.Errorf("%s takes no arguments, and got %s", fl.Name(), strings.Join(fl.Args(), " "))
	case *to == "":
		return errors.New("-o: say where to write")
	}
	return nil
}
