// Package render makes the objects of ark's chart with Helm's own library, as `helm template` does.
package render

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
)

// Release is what a chart is rendered for.
type Release struct {
	Chart     string // the chart's folder
	Namespace string
	Values    map[string]any
}

// crdTemplate has the custom resource definitions, which come before everything else.
const crdTemplate = "crds.yaml"

// Files renders the chart and returns each template's text by its name, without those that render to nothing.
// Values that the chart's schema refuses are an error.
func (r Release) Files() (map[string]string, error) {
	chart, err := loader.LoadDir(r.Chart)
	if err != nil {
		return nil, fmt.Errorf("load the chart: %w", err)
	}
	release := common.ReleaseOptions{Name: "ark", Namespace: r.Namespace, Revision: 1, IsInstall: true}
	values, err := util.ToRenderValues(chart, r.Values, release, common.DefaultCapabilities)
	if err != nil {
		return nil, fmt.Errorf("values of the chart: %w", err)
	}
	texts, err := engine.Render(chart, values)
	if err != nil {
		return nil, fmt.Errorf("render the chart: %w", err)
	}
	files := map[string]string{}
	for path, text := range texts {
		name := path[strings.LastIndex(path, "/")+1:]
		if text = strings.TrimSpace(text); text != "" {
			files[name] = strings.TrimPrefix(text, "---\n") + "\n"
		}
	}
	return files, nil
}

// Manifests renders the chart into two texts of YAML: the definitions of ark's kinds, and the operator with all it needs,
// its namespace first.
func (r Release) Manifests() (crds, operator []byte, err error) {
	files, err := r.Files()
	if err != nil {
		return nil, nil, err
	}
	crds = []byte(files[crdTemplate])
	var out bytes.Buffer
	out.WriteString(files["namespace.yaml"])
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if name == crdTemplate || name == "namespace.yaml" || name == "NOTES.txt" {
			continue
		}
		if out.Len() > 0 {
			out.WriteString("---\n")
		}
		out.WriteString(files[name])
	}
	return crds, out.Bytes(), nil
}
