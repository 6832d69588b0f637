package manifest

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Locate gives the place of a field of an object of the set as file:line. The path is written as in findings:
// spec.pipeline[2].inputs.prompt; an empty one is the object itself. A field that is not there is located at the
// nearest thing around it. For an object that is not of the set the place is empty.
func (s *Set) Locate(object metav1.Object, path string) string {
	o, ok := s.origins[object]
	if !ok {
		return ""
	}
	line, _ := o.node.find(path)
	return fmt.Sprintf("%s:%d", o.file, line)
}

// Finding places a fault of an object that was found after loading; severity and further use are the caller's.
func (s *Set) Finding(object metav1.Object, path, message, hint string) Finding {
	f := Finding{Object: object.GetName(), Field: path, Message: message, Hint: hint}
	if o, ok := s.origins[object]; ok {
		f.File = o.file
		f.Line, _ = o.node.find(path)
		f.Object = o.name
	}
	return f
}
