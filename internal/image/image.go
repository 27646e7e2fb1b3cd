// Package image makes container images without a container engine.
//
// Files enter [NewLayer], layers and a [Config] make an [Image], and [Write] leaves a
// docker-archive: the tar that `docker load`, `ctr images import` and `skopeo` read.
// Everything is a pure function of its arguments, so that equal files give equal bytes
// on every machine; nothing is compressed, because a compressor's output changes with
// its release. Safe for concurrent use.
//
// The archive is written here and not by a library because those there are (as of
// 2026-11) put several images of one archive in random order.
package image

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// File is an entry of a layer: a regular file, a symbolic link if Link is set, a folder
// if Path ends in a slash. Folders on the way to a file need no entry: they belong to
// root with mode 0755.
type File struct {
	Path     string // absolute
	Mode     int64  // permission bits as in chmod(2); 0: 0644, for a folder 0755
	UID, GID int
	Link     string // target
	Data     []byte
}

// Layer is a finished layer.
type Layer struct {
	tar    []byte
	digest string
	by     string
}

// NewLayer packs files. by says where the layer comes from, for `docker history`.
func NewLayer(by string, files ...File) (Layer, error) {
	entries := map[string]File{}
	for _, f := range files {
		name := path.Clean(f.Path)
		if !path.IsAbs(name) || name == "/" {
			return Layer{}, fmt.Errorf("layer %s: %q is not an absolute path of a file", by, f.Path)
		}
		if _, twice := entries[name]; twice {
			return Layer{}, fmt.Errorf("layer %s: %s is there twice", by, name)
		}
		entries[name] = f
	}
	for name := range entries {
		for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
			if f, there := entries[dir]; !there {
				entries[dir] = File{Path: dir + "/"}
			} else if !strings.HasSuffix(f.Path, "/") {
				return Layer{}, fmt.Errorf("layer %s: %s is a file and a folder", by, dir)
			}
		}
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range slices.SortedFunc(maps.Values(entries), func(a, b File) int { return cmp.Compare(path.Clean(a.Path), path.Clean(b.Path)) }) {
		if err := f.write(w); err != nil {
			return Layer{}, fmt.Errorf("layer %s: %s: %w", by, f.Path, err)
		}
	}
	if err := w.Close(); err != nil {
		return Layer{}, fmt.Errorf("layer %s: %w", by, err)
	}
	return Layer{b.Bytes(), digest(b.Bytes()), by}, nil
}

// Digest names the layer: hex SHA-256 of its tar.
func (l Layer) Digest() string { return l.digest }

func (f File) write(w *tar.Writer) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(path.Clean(f.Path), "/"), Mode: cmp.Or(f.Mode, 0o644),
		Uid: f.UID, Gid: f.GID, Size: int64(len(f.Data)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	switch {
	case f.Link != "":
		h.Typeflag, h.Linkname, h.Mode, h.Size = tar.TypeSymlink, f.Link, 0o777, 0
	case strings.HasSuffix(f.Path, "/"):
		h.Typeflag, h.Name, h.Mode, h.Size = tar.TypeDir, h.Name+"/", cmp.Or(f.Mode, 0o755), 0
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	if h.Size == 0 {
		return nil
	}
	_, err := w.Write(f.Data)
	return err
}

// Config is how a container of the image is run (OCI image specification, config.md).
type Config struct {
	User       string            `json:"User,omitempty"`
	Env        []string          `json:"Env,omitempty"`
	Entrypoint []string          `json:"Entrypoint,omitempty"`
	Cmd        []string          `json:"Cmd,omitempty"`
	WorkingDir string            `json:"WorkingDir,omitempty"`
	Labels     map[string]string `json:"Labels,omitempty"`
}

// Image is one image of an archive, for linux.
type Image struct {
	Arch    string // GOARCH's words
	Created time.Time
	Config  Config
	Layers  []Layer
	Tags    []string // "repository:tag", each
}

type history struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

// configFile is the image's configuration, whose digest is its ID.
func (i Image) configFile() ([]byte, error) {
	file := struct {
		Created      time.Time `json:"created"`
		Architecture string    `json:"architecture"`
		OS           string    `json:"os"`
		Config       Config    `json:"config"`
		RootFS       struct {
			Type    string   `json:"type"`
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
		History []history `json:"history"`
	}{Created: i.Created.UTC(), Architecture: i.Arch, OS: "linux", Config: i.Config}
	file.RootFS.Type = "layers"
	for _, l := range i.Layers {
		file.RootFS.DiffIDs = append(file.RootFS.DiffIDs, "sha256:"+l.digest)
		file.History = append(file.History, history{i.Created.UTC(), l.by})
	}
	return json.Marshal(file)
}

// manifest is an entry of an archive's manifest.json.
type manifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// Write writes an archive of images. A layer that several share is there once.
func Write(w io.Writer, images ...Image) error {
	out := tar.NewWriter(w)
	written := map[string]bool{}
	add := func(name string, data []byte) error {
		if written[name] {
			return nil
		}
		written[name] = true
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		_, err := out.Write(data)
		return err
	}
	var index []manifest
	for _, i := range images {
		if len(i.Tags) == 0 || len(i.Layers) == 0 {
			return fmt.Errorf("image %v of %d layers: it needs a tag and a layer", i.Tags, len(i.Layers))
		}
		config, err := i.configFile()
		if err != nil {
			return fmt.Errorf("image %s: %w", i.Tags[0], err)
		}
		m := manifest{Config: digest(config) + ".json", RepoTags: i.Tags}
		for _, l := range i.Layers {
			name := l.digest + ".tar"
			if err := add(name, l.tar); err != nil {
				return fmt.Errorf("image %s: %w", i.Tags[0], err)
			}
			m.Layers = append(m.Layers, name)
		}
		if err := add(m.Config, config); err != nil {
			return fmt.Errorf("image %s: %w", i.Tags[0], err)
		}
		index = append(index, m)
	}
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if err := add("manifest.json", data); err != nil {
		return err
	}
	return out.Close()
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
