// libtorch's ProcessGroupGloo.hpp includes gloo's headers, which libtorch does not ship. Only pointers to gloo's types
// cross the boundary, so these few declarations are enough; nothing here may be instantiated by us.
#pragma once
